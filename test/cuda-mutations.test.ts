/**
 * Seeded defects in the CUDA kernels, each of which the operators' tests under emulation must catch: by a finding of the emulation, or by numbers that
 * are off. The list is test/cuda/mutations.json; `original` stands once in the unit (or in `file`, a header of it), and is an expression or a statement.
 *
 * All defects of a unit are compiled into one program, that has the one which OMNI_ID_MUTANT numbers: `original` becomes a choice between both.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';

interface Mutation {
  readonly unit: string;
  readonly file?: string;
  readonly operator: string;
  readonly defect: string;
  readonly original: string;
  readonly mutated: string;
  /** What a finding says (a regular expression), where `numbers` stands for a value that is off. */
  readonly caught: string;
}

const root = join(import.meta.dirname, '..');
const build = join(root, 'build/native');
const folder = join(build, 'mutants');
const kernels = 'cuda/operators';
const mutations = JSON.parse(
  readFileSync(join(import.meta.dirname, 'cuda/mutations.json'), 'utf8'),
) as readonly Mutation[];

/** The number of a mutation, from 1 on. */
const numberOf = (mutation: Mutation): number => mutations.indexOf(mutation) + 1;

/** `text` with a choice in place of the original: between statements, or between expressions. */
function withChoice(text: string, mutation: Mutation): string {
  const { original, mutated } = mutation;
  const places = text.split(original).length - 1;
  assert.equal(places, 1, `${JSON.stringify(original)} stands ${places} times, expected once`);
  const chosen = `::omni_id_mutant == ${numberOf(mutation)}`;
  const choice = /[;}]$/.test(original)
    ? `if (${chosen}) { ${mutated} } else { ${original} }`
    : `(${chosen} ? (${mutated}) : (${original}))`;
  return text.replace(original, () => choice);
}

/** Compiles a unit with its mutations; the path of the program that tests it. */
function compile(unit: string): string {
  const own = join(folder, unit.replace('.cu', ''));
  const ofUnit = mutations.filter((mutation) => mutation.unit === unit);
  mkdirSync(join(own, kernels), { recursive: true });
  for (const file of new Set([unit, ...ofUnit.map((mutation) => mutation.file ?? unit)])) {
    const text = ofUnit
      .filter((mutation) => (mutation.file ?? unit) === file)
      .reduce(withChoice, readFileSync(join(root, 'native', kernels, file), 'utf8'));
    writeFileSync(join(own, kernels, file), text);
  }
  writeFileSync(
    join(own, 'mutant.h'),
    '#pragma once\n#include <cstdlib>\ninline const int omni_id_mutant = std::getenv("OMNI_ID_MUTANT") ? std::atoi(std::getenv("OMNI_ID_MUTANT")) : 0;\n',
  );
  // The command that the build compiled the unit with, for this copy of it.
  const commands = JSON.parse(readFileSync(join(build, 'compile_commands.json'), 'utf8')) as {
    file: string;
    command: string;
  }[];
  const wrapper = join(build, 'emulated', unit.replace('.cu', '.cpp'));
  const command = commands.find(({ file }) => file === wrapper)?.command;
  assert.ok(command !== undefined, `the build has no ${wrapper}`);
  const [compiler = '', ...rest] = command.split(' ');
  const options = rest.slice(0, rest.indexOf('-o'));
  const object = join(own, 'unit.o');
  const include = ['-I', own, '-include', join(own, 'mutant.h')];
  execFileSync(
    compiler,
    [...include, ...options, '-O1', '-Wno-error', '-x', 'c++', '-c', join(own, kernels, unit), '-o', object],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  const program = join(own, 'operators_test');
  const test = join(build, 'CMakeFiles/cuda_operators_test.dir/native/test/operators_test.cpp.o');
  const libraries = ['libomni_id_cuda_emulated.a', 'libomni_id_engine.a'].map((name) => join(build, name));
  execFileSync(compiler, [object, test, ...libraries, '-lbacktrace', '-lpthread', '-o', program]);
  return program;
}

function run(program: string, operator: string, mutant: number): { status: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync(program, [operator], {
    env: { ...process.env, OMNI_ID_MUTANT: String(mutant) },
    encoding: 'utf8',
    timeout: 120_000,
  });
  return { status, output: stdout + stderr };
}

if (!existsSync(join(build, 'compile_commands.json')))
  throw new Error('build/native is not built: npm test builds it');

for (const unit of new Set(mutations.map((mutation) => mutation.unit))) {
  const ofUnit = mutations.filter((mutation) => mutation.unit === unit);
  let program: string | undefined;
  test(`${unit} without a defect`, () => {
    program = compile(unit);
    for (const operator of new Set(ofUnit.map((mutation) => mutation.operator))) {
      const { status, output } = run(program, operator, 0);
      assert.equal(status, 0, output);
    }
  });
  for (const mutation of ofUnit) {
    test(`${unit}: ${mutation.defect}`, () => {
      assert.ok(program !== undefined, `${unit} does not compile with its mutations`);
      const { status, output } = run(program, mutation.operator, numberOf(mutation));
      assert.notEqual(status, 0, 'nothing was noticed');
      const expected = new RegExp(mutation.caught.replace('numbers', ': error '));
      assert.match(output, expected);
      const line = output.split('\n').find((text) => expected.test(text));
      console.log(`caught: ${mutation.defect}: ${line?.slice(0, 200) ?? ''}`);
    });
  }
}

test('there are at least 25 mutations, of every unit of kernels', () => {
  assert.ok(mutations.length >= 25, `${mutations.length} mutations`);
  // No operator's kernels are in random.cu: cuda_random_test compares it with the host's numbers.
  const units = readdirSync(join(root, 'native', kernels)).filter(
    (file) => file.endsWith('.cu') && file !== 'random.cu',
  );
  for (const unit of units) {
    assert.ok(
      mutations.some((mutation) => mutation.unit === unit),
      `none in ${unit}`,
    );
  }
});

test.run();
