// The package as users get it: packed, installed by npm into empty projects with and without a prebuild, a compiler and install scripts, and used from
// ESM, CommonJS and TypeScript. Compiles the addon twice.
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { runProgram, type Ended, type ProgramOptions } from './support/process.js';

const root = join(import.meta.dirname, '..');
const platform = `${process.platform}-${process.arch}`;
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
assert.ok(existsSync(join(root, 'dist/index.js')), 'dist/ is not there: run "npm run build:ts" first');

// Its real path: npm and Node print that one.
const scratch = realpathSync(mkdtempSync(join(tmpdir(), 'omni-id-install-')));
const at = (...names: string[]): string => join(scratch, ...names);

/** npm's settings for reaching its registry. */
const connection = /^npm_config_(registry|.*proxy|ca|cafile|strict_ssl|cache|userconfig|globalconfig)$/;
/**
 * The environment of a user: without what an outer npm tells its scripts (it would install into the outer project, or take the outer command's
 * options for its own), and without what chooses another addon or compiler. How npm reaches its registry stays.
 */
const environment: NodeJS.ProcessEnv = {
  ...Object.fromEntries(
    Object.entries(process.env).filter(
      ([name]) =>
        !/^(OMNI_ID_.*|INIT_CWD|NODE_PATH|CC|CXX)$/.test(name) &&
        (!name.startsWith('npm_') || connection.test(name)),
    ),
  ),
  // nvcc has compiled the kernels when this folder's own addon was built, which takes minutes.
  OMNI_ID_CUDA: 'OFF',
};

function program(name: string): string {
  for (const folder of (environment['PATH'] ?? '').split(delimiter)) {
    if (existsSync(join(folder, name))) return realpathSync(join(folder, name));
  }
  throw new Error(`there is no ${name} in PATH`);
}

/** An environment whose PATH has these programs and no others. */
function only(name: string, ...programs: string[]): NodeJS.ProcessEnv {
  const folder = at('paths', name);
  mkdirSync(folder, { recursive: true });
  for (const one of programs)
    symlinkSync(one === 'node' ? process.execPath : program(one), join(folder, one));
  return { ...environment, PATH: folder };
}
/** What npm and its scripts need: no CMake, no compiler, no make. */
const noCompiler = only('no compiler', 'node', 'npm', 'sh');

function run(command: string, options: readonly string[], settings: ProgramOptions): Promise<Ended> {
  return runProgram(command, options, { env: environment, timeoutMs: 600_000, ...settings });
}

/** Runs a program that must succeed; its stdout. */
async function succeed(
  command: string,
  options: readonly string[],
  settings: ProgramOptions,
): Promise<string> {
  const { code, stdout, stderr } = await run(command, options, settings);
  assert.is(code, 0, `${command} ${options.join(' ')}:\n${stdout}\n${stderr}`);
  return stdout;
}

/** Packs the package's tree into a folder of its own; the tarball. */
async function pack(tree: string, name: string): Promise<string> {
  mkdirSync(at(name));
  // What is built is packed: the tree has no sources to build it from again.
  await succeed('npm', ['pack', '--ignore-scripts', '--silent', '--pack-destination', at(name)], {
    cwd: tree,
  });
  const [tarball = 'none', ...others] = readdirSync(at(name));
  assert.equal(others, []);
  return at(name, tarball);
}

/** An empty project. */
function project(name: string): string {
  mkdirSync(at(name));
  writeFileSync(at(name, 'package.json'), JSON.stringify({ private: true, type: 'module' }));
  return at(name);
}

function install(
  folder: string,
  tarball: string,
  options: readonly string[],
  env = environment,
): Promise<Ended> {
  const quiet = ['--prefer-offline', '--no-audit', '--no-fund', '--no-update-notifier'];
  return run('npm', ['install', ...quiet, ...options, tarball], { cwd: folder, env });
}

const installed = (folder: string, ...names: string[]): string =>
  join(folder, 'node_modules/omni-id', ...names);

const photo = '{ data: new Uint8Array(64 * 48 * 3).fill(100), width: 64, height: 48, channels: 3 }';
const body = `
  const encoder = await OmniIdEncoder.create('nano');
  const { shape } = await encoder.embed([[photo]]);
  encoder.dispose();
  console.log(JSON.stringify(shape));`;
const typed = `
import { OmniIdEncoder, type IdentityTokens, type RawImage } from 'omni-id';
export async function main(): Promise<void> {
  const photo: RawImage = ${photo};
  const encoder: OmniIdEncoder = await OmniIdEncoder.create('nano', { threads: 1 });
  const tokens: IdentityTokens = await encoder.embed([[photo]]);
  // @ts-expect-error identities are arrays of photos: the types are there, and not any
  await encoder.embed([photo]).catch(() => undefined);
  encoder.dispose();
  console.log(JSON.stringify(tokens.shape));
}
void main();
`;
const examples = {
  'example.mjs': `import { OmniIdEncoder } from 'omni-id';\nconst photo = ${photo};${body}\n`,
  'example.cjs': `const { OmniIdEncoder } = require('omni-id');\nconst photo = ${photo};\n(async () => {${body}\n})();\n`,
};

/** Runs one of the examples. */
async function assertWorks(folder: string, name: keyof typeof examples, env = environment): Promise<void> {
  writeFileSync(join(folder, name), examples[name]);
  assert.is(await succeed(process.execPath, [name], { cwd: folder, env }), '[1,64,384]\n', name);
}

let without = '';
let withPrebuild = '';

test.before(async () => {
  // A copy, so that no prebuild stays in the checkout, where it would be loaded instead of what was compiled last.
  const tree = at('tree');
  for (const name of [
    'dist',
    'native',
    'bindings',
    'benchmarks',
    'scripts',
    'CMakeLists.txt',
    'cmake',
    'package.json',
    'README.md',
    'LICENSE',
  ]) {
    // What the benchmark's peers have installed in the checkout stays there.
    cpSync(join(root, name), join(tree, name), {
      recursive: true,
      filter: (path) => !path.includes('/benchmarks/peers/node_modules'),
    });
  }
  symlinkSync(join(root, 'node_modules'), join(tree, 'node_modules'));
  without = await pack(tree, 'without');
  await succeed(process.execPath, ['scripts/prebuildify.mjs'], { cwd: tree });
  assert.equal(readdirSync(join(tree, 'prebuilds'), { recursive: true }), [
    platform,
    `${platform}/omni-id.node`,
  ]);
  withPrebuild = await pack(tree, 'with');
});

test('the tarball has what is needed, and nothing else', async () => {
  const json = await succeed('npm', ['pack', '--ignore-scripts', '--dry-run', '--json'], { cwd: root });
  const [contents] = JSON.parse(json) as { size: number; files: { path: string }[] }[];
  const files = new Set(contents?.files.map(({ path }) => path));
  const sources = ['native', 'bindings'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .map((name) => `${folder}/${name}`)
      .filter((name) => /\.(cpp|h|cu|cuh)$/.test(name) && !/^native\/(test|cuda\/emulation)\//.test(name)),
  );
  assert.ok(sources.length > 40, `${sources.length} sources`);
  const dist = ['index.js', 'index.cjs', 'index.d.ts', 'index.d.cts', 'cli.js'].map((name) => `dist/${name}`);
  const others = [
    'package.json',
    'README.md',
    'LICENSE',
    'CMakeLists.txt',
    'cmake/cuda.cmake',
    'scripts/install.mjs',
    'scripts/build-addon.mjs',
    // The benchmark suite is in dist; these are the programs that it runs.
    ...['package.json', 'package-lock.json', 'kernel_peer.cpp', 'pytorch.py', 'pytorch_training.py'].map(
      (name) => `benchmarks/peers/${name}`,
    ),
    ...readdirSync(join(root, 'benchmarks/programs')).map((name) => `benchmarks/programs/${name}`),
    // What the README refers to.
    'benchmarks/README.md',
    ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
      .filter((name) => /\.(md|svg|png|jpg|jsonl|txt)$/.test(name))
      .map((name) => `docs/${name}`),
    ...readdirSync(join(root, 'assets')).map((name) => `assets/${name}`),
  ];
  for (const name of [...sources, ...dist, ...others]) assert.ok(files.has(name), `${name} is not packed`);
  for (const name of files) {
    assert.ok(
      others.includes(name) ||
        sources.includes(name) ||
        /^dist\/[^/]+$|^prebuilds\/[^/]+\/omni-id\.node$/.test(name),
      `${name} is packed`,
    );
  }
  // The face model is most of it.
  assert.ok(readFileSync(without).length < 8e6, 'without a prebuild it is small');
  assert.ok(readFileSync(withPrebuild).length < 12e6, 'and not large with one');
});

test('with a prebuild and --ignore-scripts: ESM, CommonJS and the command line', async () => {
  const folder = project('prebuilt');
  assert.is((await install(folder, withPrebuild, ['--ignore-scripts'])).code, 0);
  assert.not(existsSync(installed(folder, 'build')));
  await assertWorks(folder, 'example.mjs');
  await assertWorks(folder, 'example.cjs');

  const info = await succeed(join(folder, 'node_modules/.bin/omni-id'), ['info', '--json'], { cwd: folder });
  const facts = JSON.parse(info) as { version: string; platform: string };
  assert.equal([facts.version, facts.platform], [version, platform]);
  assert.is(await succeed('npx', ['--no-install', 'omni-id', '--version'], { cwd: folder }), `${version}\n`);
});

test('the installed benchmark runs: processes of its own, worker threads, files that it brings', async () => {
  const suites = ['block', 'lifecycle', 'node'].flatMap((name) => ['--suite', name]);
  const options = ['bench', '--quick', '--peer', 'none', ...suites];
  const output = await succeed(join(at('prebuilt'), 'node_modules/.bin/omni-id'), options, {
    cwd: at('prebuilt'),
  });
  for (const words of ['layer "tiny", batch 4', 'start to first result, cached', 'two worker threads'])
    assert.match(output, words);
});

test('TypeScript: node16 from ESM and CommonJS, and bundler', async () => {
  const folder = at('prebuilt');
  const options = {
    strict: true,
    target: 'ES2022',
    lib: ['ES2022'],
    types: ['node'],
    typeRoots: [join(root, 'node_modules/@types')],
    // The package's own declarations are to be checked too.
    skipLibCheck: false,
    outDir: 'out',
    rootDir: '.',
  };
  const resolutions = {
    node16: {
      module: 'Node16',
      moduleResolution: 'Node16',
      files: { 'esm.mts': 'esm.mjs', 'cjs.cts': 'cjs.cjs' },
    },
    bundler: { module: 'ESNext', moduleResolution: 'Bundler', files: { 'bundled.ts': 'bundled.js' } },
  };
  for (const [name, { files, ...resolution }] of Object.entries(resolutions)) {
    for (const file of Object.keys(files)) writeFileSync(join(folder, file), typed);
    const config = { compilerOptions: { ...options, ...resolution }, files: Object.keys(files) };
    writeFileSync(join(folder, `${name}.json`), JSON.stringify(config));
    const tsc = join(root, 'node_modules/typescript/bin/tsc');
    await succeed(process.execPath, [tsc, '-p', `${name}.json`], { cwd: folder });
    for (const file of Object.values(files)) {
      assert.is(await succeed(process.execPath, [join('out', file)], { cwd: folder }), '[1,64,384]\n', file);
    }
  }
});

test('with a prebuild, scripts, and no compiler', async () => {
  const folder = project('no compiler');
  const { code, stdout, stderr } = await install(folder, withPrebuild, ['--foreground-scripts'], noCompiler);
  assert.is(code, 0, stderr);
  assert.match(stdout + stderr, `omni-id@${version} install`);
  assert.not(existsSync(installed(folder, 'build')));
  await assertWorks(folder, 'example.mjs', noCompiler);
});

test('without a prebuild, with a compiler: compiles', async () => {
  const folder = project('compiled');
  const { code, stderr } = await install(folder, without, []);
  assert.is(code, 0, stderr);
  assert.not(existsSync(installed(folder, 'prebuilds')));
  assert.ok(existsSync(installed(folder, 'build/Release/omni_id.node')));
  await assertWorks(folder, 'example.mjs');
  await assertWorks(folder, 'example.cjs');
});

/** What a message of a failed install says: where, what was tried, and what to do. */
function assertExplains(message: string, ...words: string[]): void {
  const said = ['could not install its native addon', platform, `Node ${process.versions.node}`, 'Tried:'];
  const fix = ['Fix: install CMake 3.18', 'C++20 compiler', 'npm rebuild omni-id'];
  for (const word of [...said, `prebuilds/${platform}`, ...words, ...fix]) {
    assert.ok(message.includes(word), `"${word}" is not in:\n${message}`);
  }
}

test('neither prebuild nor compiler: the install fails and explains itself', async () => {
  const folder = project('hopeless');
  const { code, stderr } = await install(folder, without, [], noCompiler);
  assert.is.not(code, 0);
  assertExplains(stderr, 'compiling from source: cmake is not installed');
  assert.not(existsSync(installed(folder)));
});

test('neither prebuild nor scripts: importing works, the first use explains itself', async () => {
  const folder = project('unscripted');
  assert.is((await install(folder, without, ['--ignore-scripts'])).code, 0);
  const use = `{ OmniIdEncoder, AddonError }) => OmniIdEncoder.create('nano').catch((error) =>
    console.log(JSON.stringify([error instanceof AddonError, error.code, error.message])))`;
  for (const [name, script] of Object.entries({
    'use.mjs': `import * as omniId from 'omni-id';\nconsole.log('imported');\n((${use})(omniId);\n`,
    'use.cjs': `const omniId = require('omni-id');\nconsole.log('imported');\n((${use})(omniId);\n`,
  })) {
    writeFileSync(join(folder, name), script);
    const [imported, line = ''] = (await succeed(process.execPath, [name], { cwd: folder })).split('\n');
    assert.is(imported, 'imported');
    const [isAddonError, code, message] = JSON.parse(line) as [boolean, string, string];
    assert.ok(isAddonError);
    assert.is(code, 'ERR_ADDON');
    for (const word of [
      platform,
      `prebuilds/${platform}`,
      'build/Release',
      'CMake 3.18',
      'npm rebuild omni-id',
    ]) {
      assert.ok(message.includes(word), `"${word}" is not in: ${message}`);
    }
  }
  const info = await run(join(folder, 'node_modules/.bin/omni-id'), ['info', '--json'], { cwd: folder });
  assert.is(info.code, 1);
  assert.is((JSON.parse(info.stdout) as { error: { code: string } }).error.code, 'ERR_ADDON');
});

test('a compiler that is missing, does not run, or fails', async () => {
  const folder = at('unscripted');
  const attempt = async (env: NodeJS.ProcessEnv, ...words: string[]): Promise<void> => {
    const { code, stderr } = await run(process.execPath, [installed(folder, 'scripts/install.mjs')], {
      cwd: folder,
      env,
    });
    assert.is(code, 1);
    assertExplains(stderr, ...words);
  };
  await attempt(only('cmake alone', 'node', 'sh', 'cmake'), 'compiling from source: c++ is not installed');
  await attempt({ ...environment, CXX: 'false' }, 'compiling from source: false does not run');
  const broken = at('broken-c++');
  writeFileSync(broken, '#!/bin/sh\n[ "$1" = --version ] || { echo "error: out of order" >&2; exit 1; }\n');
  chmodSync(broken, 0o755);
  await attempt({ ...environment, CXX: broken }, 'compiling from source: it failed', 'CMake Error');
});

test.after(() => {
  rmSync(scratch, { recursive: true, force: true });
});

test.run();
