// The engine's own tests for 64-bit Arm on a machine of another kind: cross-compiled to build/arm64 together with the addon, and run
// under qemu-user, once as a processor with everything and once as one with the baseline alone. What is checked is that every program
// passes and ran on the instruction sets that such a processor has, that the kernels share no symbol, and that the addon links.
// The last line is the sum, `N passed, N failed`. Needs g++-aarch64-linux-gnu and qemu-user; an arm64 machine runs `npm test` instead.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const build = join(root, 'build/arm64');
const libraries = '/usr/aarch64-linux-gnu';
const programTimeoutMs = 120_000;

/** A processor that qemu plays, and the instruction sets that the engine must find on it. */
const processors = [
  { name: 'max', sets: ['neonbf16', 'neon', 'portable'] },
  { name: 'cortex-a72', sets: ['neon', 'portable'] },
];

const needed = [
  { tool: 'cmake', debian: 'cmake' },
  { tool: 'aarch64-linux-gnu-g++', debian: 'g++-aarch64-linux-gnu' },
  { tool: 'qemu-aarch64', debian: 'qemu-user' },
];

let passed = 0;
let failed = 0;

function end() {
  if (passed + failed === 0) failed = 1;
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed === 0 ? 0 : 1);
}

function fails(what, output = '') {
  failed++;
  console.log(`FAILED ${what}`);
  if (output) console.log(output.trimEnd());
}

function run(command, args, options = {}) {
  const { status, stdout, stderr, error, signal } = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 26,
    ...options,
  });
  const why = error?.code === 'ETIMEDOUT' ? 'it took too long\n' : signal ? `killed by ${signal}\n` : '';
  return { good: status === 0, output: `${stdout ?? ''}${stderr ?? ''}${why}` };
}

const missing = needed.filter(({ tool }) => !run(tool, ['--version']).good);
if (missing.length > 0) {
  console.error(
    `Missing: ${missing.map(({ tool }) => tool).join(', ')}. On Debian and Ubuntu:` +
      ` apt-get update && apt-get install ${missing.map(({ debian }) => debian).join(' ')}`,
  );
  fails('the tools are not there');
  end();
}

const require = createRequire(import.meta.url);
const configured = run('cmake', [
  ...['-S', root, '-B', build],
  `-DCMAKE_TOOLCHAIN_FILE=${join(root, 'cmake/aarch64-linux-gnu.cmake')}`,
  ...['-DCMAKE_BUILD_TYPE=Release', '-DOMNI_ID_TESTS=ON', '-DOMNI_ID_WERROR=ON'],
  // What cmake-js would say; the addon needs no more than Node-API's headers.
  `-DCMAKE_JS_INC=${require('node-api-headers').include_dir}`,
]);
if (!configured.good) {
  fails('configuring build/arm64', configured.output);
  end();
}
const compiled = run('cmake', ['--build', build, '--parallel', String(availableParallelism())]);
if (!compiled.good) {
  fails('compiling the engine, its tests and the addon for arm64', compiled.output);
  end();
}

function report(good, what, output) {
  if (good) {
    passed++;
    console.log(`ok     ${what}`);
  } else {
    fails(what, output);
  }
}

report(existsSync(join(build, 'omni_id.node')), 'the addon links for arm64');
const symbols = run(process.execPath, [join(root, 'scripts/check-isa-symbols.mjs'), build]);
report(symbols.good, 'kernels share no symbols', symbols.output);

const programs = readdirSync(build).filter((file) => file.endsWith('_test'));
if (programs.length === 0) fails('build/arm64 holds no test');
for (const { name, sets } of processors) {
  for (const program of programs) {
    const options = ['-L', libraries, '-cpu', name, join(build, program)];
    const started = Date.now();
    const { good, output } = run('qemu-aarch64', options, {
      timeout: programTimeoutMs,
      killSignal: 'SIGKILL',
    });
    const seconds = ((Date.now() - started) / 1000).toFixed(1);
    const counts = /^(\d+) passed, (\d+) failed$/m.exec(output);
    passed += Number(counts?.[1] ?? 0);
    failed += Number(counts?.[2] ?? 0);
    const ran = [...new Set(output.match(/^(neonbf16|neon|portable)\b/gm))];
    const what = `${program} on ${name} (${counts?.[0] ?? 'no counts'}, ${seconds} s): ${ran.join(', ')}`;
    // A test of the kernels names each instruction set at the start of a line; one that names none is not about them.
    report(good && counts && (ran.length === 0 || ran.join() === sets.join()), what, output);
  }
}
end();
