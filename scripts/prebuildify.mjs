// Makes prebuilds/<platform>-<arch>/omni-id.node for the package with prebuildify, whose --node-gyp is pointed at a shim: the build is
// CMake's, not node-gyp's.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const prebuildify = join(
  dirname(createRequire(import.meta.url).resolve('prebuildify/package.json')),
  'bin.js',
);
const shim = join(root, 'scripts/node-gyp-shim.mjs');
const options = ['--napi', '--strip', '-t', process.versions.node, '--node-gyp', shim];
const { status } = spawnSync(process.execPath, [prebuildify, ...options], { cwd: root, stdio: 'inherit' });
process.exit(status ?? 1);
