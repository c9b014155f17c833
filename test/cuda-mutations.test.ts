/**
 * Seeded defects in the CUDA kernels, each of which the operators' tests under emulation must catch: by a finding of the emulation, or by numbers that
 * are off. The list is test/cuda/mutations.json; `original` stands once in the unit (or in `file`, a header of it), and is an expression or a statement.
 *
 * All defects of a unit are compiled into one program, that has the one which OMNI_ID_MUTANT numbers: `original` becomes a choice between both.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { test } from 'uvu';
import { quiet } from '../src/data/ahead.js';

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

const execute = promisify(execFile);
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
async function compile(unit: string): Promise<string> {
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
  const source = ['-x', 'c++', '-c', join(own, kernels, unit), '-o', object];
  await execute(compiler, [...include, ...options, '-O1', '-Wno-error', ...source], { maxBuffer: 1 << 26 });
  const program = join(own, 'operators_test');
  const test = join(build, 'CMakeFiles/cuda_operators_test.dir/native/test/operators_test.cpp.o');
  const libraries = ['libomni_id_cuda_emulated.a', 'libomni_id_engine.a'].map((name) => join(build, name));
  await execute(compiler, [object, test, ...libraries, '-lbacktrace', '-lpthread', '-o', program]);
  return program;
}

/** How a program ended. */
interface Ended {
  readonly good: boolean;
  readonly output: string;
}

function run(program: string, operator: string, mutant: number): Promise<Ended> {
  const env = { ...process.env, OMNI_ID_MUTANT: String(mutant) };
  return new Promise((resolve) => {
    execFile(program, [operator], { env, timeout: 120_000, maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      resolve({ good: error === null, output: stdout + stderr });
    });
  });
}

/** The operators of a unit without a defect, and with each of its defects by number. */
interface UnitEnded {
  readonly clean: readonly Ended[];
  readonly mutants: ReadonlyMap<number, Ended>;
}

async function runUnit(unit: string): Promise<UnitEnded> {
  const ofUnit = mutations.filter((mutation) => mutation.unit === unit);
  const program = await compile(unit);
  const clean: Ended[] = [];
  for (const operator of new Set(ofUnit.map((mutation) => mutation.operator)))
    clean.push(await run(program, operator, 0));
  const mutants = new Map<number, Ended>();
  for (const mutation of ofUnit)
    mutants.set(numberOf(mutation), await run(program, mutation.operator, numberOf(mutation)));
  return { clean, mutants };
}

if (!existsSync(join(build, 'compile_commands.json')))
  throw new Error('build/native is not built: npm test builds it');

// As many units at a time as there are processors.
const lanes: Promise<unknown>[] = Array.from({ length: availableParallelism() }, () => Promise.resolve());
for (const [i, unit] of [...new Set(mutations.map((mutation) => mutation.unit))].entries()) {
  const work = (): Promise<UnitEnded> => runUnit(unit);
  const ended = quiet((lanes[i % lanes.length] ?? Promise.resolve()).then(work, work));
  lanes[i % lanes.length] = ended;
  test(`${unit} without a defect`, async () => {
    for (const { good, output } of (await ended).clean) assert.ok(good, output);
  });
  for (const mutation of mutations.filter((one) => one.unit === unit)) {
    test(`${unit}: ${mutation.defect}`, async () => {
      const { good, output } = (await ended).mutants.get(numberOf(mutation)) ?? { good: true, output: '' };
      assert.ok(!good, 'nothing was noticed');
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
