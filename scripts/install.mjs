// npm's install step: uses the addon that is there (a prebuild for this platform, or one compiled before) when it loads, else compiles
// it, else says what was tried and what to do. `npm install --ignore-scripts` skips this; a prebuild is then found at run time.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const require = createRequire(import.meta.url);
const tried = [];

function loads() {
  try {
    const path = require('node-gyp-build').path(root);
    // In a checkout sources change: what was compiled before is brought up to date rather than trusted.
    if (existsSync(join(root, '.git')) && !path.includes('prebuilds')) {
      tried.push('the addon compiled before: this is a checkout, so it is compiled again');
      return false;
    }
    require(path);
    return true;
  } catch (error) {
    tried.push(
      `a prebuild in prebuilds/${process.platform}-${process.arch}: ${String(error.message ?? error).split('\n')[0]}`,
    );
    return false;
  }
}

function compiles() {
  for (const tool of ['cmake', process.env.CXX ?? 'c++']) {
    const { status, error } = spawnSync(tool, ['--version'], { stdio: 'ignore' });
    if (status !== 0) {
      tried.push(
        `compiling from source: ${tool} ${error?.code === 'ENOENT' ? 'is not installed' : 'does not run'}`,
      );
      return false;
    }
  }
  const build = spawnSync(process.execPath, [join(root, 'scripts/build-addon.mjs')], {
    cwd: root,
    encoding: 'utf8',
  });
  if (build.status === 0) return true;
  const lines = `${build.stdout}\n${build.stderr}`.split('\n').filter((line) => /error|Error/.test(line));
  tried.push(
    `compiling from source: it failed${lines.length ? `:\n    ${lines.slice(0, 8).join('\n    ')}` : ''}`,
  );
  return false;
}

if (!loads() && !compiles()) {
  const libc = process.report?.getReport().header.glibcVersionRuntime;
  console.error(
    `omni-id could not install its native addon on ${process.platform}-${process.arch}` +
      ` (Node ${process.versions.node}${libc ? `, glibc ${libc}` : ''}).\n` +
      `Tried:\n${tried.map((one) => `  - ${one}`).join('\n')}\n` +
      'Fix: install CMake 3.18 or newer and a C++20 compiler (g++ 11, clang 14 or newer; on Debian: apt-get install cmake g++ make)' +
      ' and run "npm rebuild omni-id", or install on a platform for which the package carries a prebuild.',
  );
  process.exit(1);
}
