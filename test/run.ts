/**
 * The test command. Stages, each a list of programs that report how many checks passed and failed; the last line is their sum,
 * `N passed, N failed`. A program that ran nothing, crashed or took too long is a failure.
 *
 *   npm test                     everything
 *   npm test -- --only golden    the stages and test files whose name contains the word
 */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import { delimiter, dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { native, type NativeBinding } from '../src/bindings.js';

const root = join(import.meta.dirname, '..');
const { only } = parseArgs({ options: { only: { type: 'string', default: '' } } }).values;

let passed = 0;
let failed = 0;

interface Program {
  readonly name: string;
  readonly command: readonly [string, ...string[]];
  readonly env?: Record<string, string>;
  /** Show what it prints even when it passes. */
  readonly verbose?: boolean;
  readonly timeoutMs?: number;
  /** A program that reports no counts passes when it exits with 0. */
  readonly plain?: boolean;
  /** Why it cannot run here: one line says so, and it counts for nothing. */
  readonly notRun?: string;
}

/** Reads `N passed, N failed` or uvu's totals, which count what is skipped beside them. */
function counts(output: string): { passed: number; failed: number } | undefined {
  const own = /^(\d+) passed, (\d+) failed$/m.exec(output);
  if (own) return { passed: Number(own[1]), failed: Number(own[2]) };
  const total = /^ {2}Total: +(\d+)$/m.exec(output);
  const good = /^ {2}Passed: +(\d+)$/m.exec(output);
  if (!total || !good) return undefined;
  return { passed: Number(good[1]), failed: Number(total[1]) - Number(good[1]) };
}

function run({
  name,
  command: [program, ...rest],
  env,
  verbose,
  timeoutMs = 300_000,
  plain,
  notRun,
}: Program): Promise<void> {
  return new Promise((resolve) => {
    if (notRun !== undefined) {
      console.log(`       ${name} (not run: ${notRun})`);
      resolve();
      return;
    }
    const started = performance.now();
    const child = spawn(program, rest, {
      cwd: root,
      env: { ...process.env, NO_COLOR: '1', ...env },
      timeout: timeoutMs,
      killSignal: 'SIGKILL',
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
    const end = (code: number | null, why: string): void => {
      const found = plain ? { passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1 } : counts(output);
      const good = code === 0 && found?.failed === 0 && found.passed > 0;
      passed += found?.passed ?? 0;
      failed += good ? 0 : Math.max(1, found?.failed ?? 0);
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      console.log(
        `${good ? 'ok    ' : 'FAILED'} ${name} (${found ? `${found.passed} passed, ${found.failed} failed` : why}, ${seconds} s)`,
      );
      if (!good || verbose) console.log(output.trimEnd());
      resolve();
    };
    child.on('error', (error) => {
      end(null, error.message);
    });
    child.on('close', (code, signal) => {
      end(code, signal ? `killed by ${signal}` : `exit code ${code ?? '?'}, no counts`);
    });
  });
}

/** Test files that are repeated on every instruction set of this machine. */
const perInstructionSet = ['golden-kernels', 'golden-models', 'golden-preprocess', 'properties'];
/** Test files that also run with the addon built with AddressSanitizer and UndefinedBehaviorSanitizer. */
const sanitized = [
  'golden-kernels',
  'golden-models',
  'golden-preprocess',
  'properties',
  'fuzz',
  'inputs',
  'lifecycle',
  'profile',
  'rendered',
];
/** Test files that also run with a CUDA device: the emulated one, and a real one where there is one. */
const onCuda = ['devices', 'golden-kernels', 'golden-models', 'golden-training'];

/** The engine's own tests in a build folder; a part of the tests (`--only`) may be run before it is built. */
function nativeTests(folder: string): string[] {
  if (!existsSync(join(root, folder))) {
    if (only === '') throw new Error(`${folder} is not built: npm test builds it`);
    return [];
  }
  return readdirSync(join(root, folder)).filter((file) => file.endsWith('_test'));
}

const slow: Record<string, number> = {
  'golden-vit-h': 900_000,
  fuzz: 600_000,
  install: 900_000,
  bench: 600_000,
};

/** The first of these programs that is in PATH. */
function inPath(program: string): string | undefined {
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '');
  return folders.map((folder) => join(folder, program)).find((path) => existsSync(path));
}

/** NVIDIA's compute-sanitizer: in PATH, or beside nvcc. */
function findSanitizer(): string | undefined {
  const name = 'compute-sanitizer';
  const nvcc = inPath('nvcc');
  const beside = nvcc === undefined ? '' : join(dirname(realpathSync(nvcc)), name);
  return inPath(name) ?? (existsSync(beside) ? beside : undefined);
}

/** Why a program for a GPU is not there. */
const notBuilt = 'build/native is without CUDA: OMNI_ID_CUDA=ON npm run build:native';

/** The operators' test on a real device under compute-sanitizer, whose tools find in the hardware what the emulation finds without. */
function* underSanitizer(device: string | undefined): Generator<Program> {
  const sanitizer = findSanitizer();
  const program = join(root, 'build/native/cuda_operators_on_device');
  if (device === undefined || sanitizer === undefined || !existsSync(program)) {
    const notRun =
      device === undefined
        ? 'no GPU'
        : sanitizer === undefined
          ? 'no compute-sanitizer in PATH or beside nvcc'
          : notBuilt;
    yield { name: 'cuda compute-sanitizer', command: ['compute-sanitizer'], notRun };
    return;
  }
  for (const tool of ['memcheck', 'racecheck', 'synccheck']) {
    yield {
      name: `cuda on ${device}: cuda_operators_on_device under compute-sanitizer --tool ${tool}`,
      command: [sanitizer, '--tool', tool, '--error-exitcode', '1', program],
      timeoutMs: 1_800_000,
    };
  }
}

/** Their names begin with "cuda", and say when it is an emulation: `--only cuda` is `npm run test:cuda`. */
function* cudaPrograms(): Generator<Program> {
  const emulated = join(root, 'build/native/Release/omni_id_emulated.node');
  // The addon that was built with the programs, or the package's: either may be without CUDA.
  const ofTests = join(root, 'build/native/Release/omni_id.node');
  const asked = [native().cudaDevices()];
  if (existsSync(ofTests)) asked.unshift((createRequire(import.meta.url)(ofTests) as NativeBinding).cudaDevices()); // prettier-ignore
  const usable = asked.map(({ devices: [first], emulated: none }) =>
    !none && first?.reason === '' ? first : undefined,
  );
  const real = usable.find((device) => device !== undefined);
  const reasons = asked.map(({ reason, devices }) => devices[0]?.reason ?? reason);
  const noGpu = reasons.find((reason) => reason !== '') ?? 'no GPU';
  const places: { name: string; env: Record<string, string> }[] = [];
  if (existsSync(emulated))
    places.push({ name: 'under emulation', env: { OMNI_ID_ADDON: emulated, OMNI_ID_DEVICE: 'cuda' } });
  if (real) {
    const env = {
      OMNI_ID_DEVICE: 'cuda',
      ...(usable.length > 1 && usable[0] ? { OMNI_ID_ADDON: ofTests } : {}),
    };
    places.push({ name: `on ${real.name}`, env });
  }
  for (const program of ['cuda_operators_on_device', 'cuda_device_on_device', 'cuda_random_on_device']) {
    const command: [string] = [join(root, 'build/native', program)];
    if (real && existsSync(command[0])) yield { name: `cuda on ${real.name}: ${program}`, command };
    else
      yield {
        name: `cuda on ${real?.name ?? 'a GPU'}: ${program}`,
        command,
        notRun: real ? notBuilt : noGpu,
      };
  }
  yield* underSanitizer(real?.name);
  for (const { name, env } of places) {
    for (const file of onCuda) {
      const command: [string, ...string[]] = ['node', '--import', 'tsx', `test/${file}.test.ts`];
      yield { name: `cuda ${name}: ${file}`, command, env, verbose: true, timeoutMs: 900_000 };
    }
  }
}

function* programs(): Generator<Program> {
  const npx = (tool: string, ...options: string[]): [string, ...string[]] => [
    join(root, 'node_modules/.bin', tool),
    ...options,
  ];
  yield { name: 'format: prettier', command: npx('prettier', '--check', '.'), plain: true };
  yield {
    name: 'format: clang-format',
    command: ['node', 'scripts/clang-format.mjs', '--check'],
    plain: true,
  };
  yield { name: 'lint: eslint', command: npx('eslint', '.'), plain: true };
  yield { name: 'types: tsc', command: npx('tsc', '-p', '.'), plain: true };
  yield { name: 'kernels share no symbols', command: ['node', 'scripts/check-isa-symbols.mjs'], plain: true };
  for (const program of nativeTests('build/native')) {
    yield { name: `native: ${program}`, command: [join(root, 'build/native', program)] };
  }
  const files = readdirSync(join(root, 'test'))
    .filter((file) => file.endsWith('.test.ts'))
    .map((file) => file.replace('.test.ts', ''));
  const sets = native().instructionSets();
  for (const file of files) {
    const command = ['node', '--import', 'tsx', `test/${file}.test.ts`] as const;
    const timeoutMs = slow[file] ?? 300_000;
    const verbose = file.startsWith('golden');
    for (const isa of perInstructionSet.includes(file) ? sets : [undefined]) {
      const env = isa === undefined ? {} : { OMNI_ID_ISA: isa };
      yield { name: `${file}${isa ? ` on ${isa}` : ''}`, command: [...command], env, verbose, timeoutMs };
    }
  }
  yield* cudaPrograms();
  const addon = join(root, 'build/sanitize/omni_id.node');
  if (existsSync(addon)) {
    for (const program of nativeTests('build/sanitize')) {
      yield { name: `sanitized native: ${program}`, command: [join(root, 'build/sanitize', program)] };
    }
    for (const file of files.filter((name) => sanitized.includes(name))) {
      const options = {
        OMNI_ID_ADDON: addon,
        OMNI_ID_SANITIZED: '1',
        ASAN_OPTIONS: 'detect_leaks=0',
        UBSAN_OPTIONS: 'print_stacktrace=1',
      };
      const command: [string, ...string[]] = [
        'node',
        'scripts/with-sanitizers.mjs',
        '--import',
        'tsx',
        `test/${file}.test.ts`,
      ];
      yield { name: `sanitized ${file}`, command, env: options, timeoutMs: 900_000 };
    }
  }
}

for (const program of programs()) if (program.name.includes(only)) await run(program);
if (passed + failed === 0) failed = 1;
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
