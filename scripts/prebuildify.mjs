// Makes prebuilds/<platform>-<arch>/omni-id.node for the package with prebuildify, whose --node-gyp is pointed at a shim: the build is
// CMake's, not node-gyp's. With --arch arm64 the prebuild for 64-bit Arm Linux is cross-compiled (apt-get install g++-aarch64-linux-gnu).
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const prebuildify = join(
  dirname(createRequire(import.meta.url).resolve('prebuildify/package.json')),
  'bin.js',
);
const shim = join(root, 'scripts/node-gyp-shim.mjs');
const { arch } = parseArgs({ options: { arch: { type: 'string', default: process.arch } } }).values;
const options = ['--napi', '--strip', '-t', process.versions.node, '--node-gyp', shim];
if (arch !== process.arch) {
  if (arch !== 'arm64' || process.platform !== 'linux') {
    console.error(
      `--arch is ${arch}: this machine (${process.platform}-${process.arch}) builds for itself, and Linux for arm64`,
    );
    process.exit(1);
  }
  // In a folder of its own: what is compiled for this machine in build/Release must stay.
  const folder = join(root, `build/prebuild-${arch}`);
  mkdirSync(folder, { recursive: true });
  options.push('--arch', arch, '--strip-bin', 'aarch64-linux-gnu-strip');
  options.push('--cwd', folder, '--out', root, '--name', 'omni-id');
}
// Kernels for every architecture that models run on, and PTX for those to come; 'CUDAARCHS' names others. Without nvcc this ends with an
// error: nobody would see that a package lacks the backend. A cross-compiled one never has it (cmake/cuda.cmake).
const env = {
  CUDAARCHS: '80-real;86-real;89-real;90-real;100-real;120',
  ...(arch === process.arch ? { OMNI_ID_CUDA: 'ON' } : {}),
  ...process.env,
};
const { status } = spawnSync(process.execPath, [prebuildify, ...options], {
  cwd: root,
  stdio: 'inherit',
  env,
});
process.exit(status ?? 1);
