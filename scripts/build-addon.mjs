// Compiles the addon to build/Release/omni_id.node with cmake-js, on all processors. With PREBUILD_ARCH=arm64, which prebuildify sets, on
// another architecture: with the cross compiler, to build/prebuild-arm64/build/Release.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const cmakeJs = createRequire(import.meta.url).resolve('cmake-js/bin/cmake-js');
const arch = process.env.PREBUILD_ARCH ?? process.arch;
const cross =
  arch === process.arch
    ? []
    : [
        `--arch=${arch}`,
        `--out=build/prebuild-${arch}/build`,
        `--CDCMAKE_TOOLCHAIN_FILE=${join(root, 'cmake/aarch64-linux-gnu.cmake')}`,
      ];
// Said to CMake with every build, whose cache would keep what an earlier one was told.
const cuda = [`--CDOMNI_ID_CUDA=${process.env.OMNI_ID_CUDA ?? ''}`];
if (process.env.CUDAARCHS) cuda.push(`--CDCMAKE_CUDA_ARCHITECTURES=${process.env.CUDAARCHS}`);
const result = spawnSync(process.execPath, [cmakeJs, 'compile', ...cross, ...cuda], {
  cwd: root,
  stdio: 'inherit',
  env: { CMAKE_BUILD_PARALLEL_LEVEL: String(availableParallelism()), ...process.env },
});
process.exit(result.status ?? 1);
