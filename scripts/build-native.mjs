// Compiles the engine's own tests to build/native with cmake-js, and with them two addons in build/native/Release: the package's, and
// omni_id_emulated.node, whose CUDA device is the emulation (native/cuda/emulation). nvcc has compiled the kernels when the package was installed: here it
// does with OMNI_ID_CUDA=ON, for the tests on a real device.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const cmakeJs = createRequire(import.meta.url).resolve('cmake-js/bin/cmake-js');
const { status } = spawnSync(
  process.execPath,
  [
    cmakeJs,
    'compile',
    '--out',
    'build/native',
    '--CDOMNI_ID_TESTS=ON',
    '--CDOMNI_ID_WERROR=ON',
    `--CDOMNI_ID_CUDA=${process.env.OMNI_ID_CUDA ?? 'OFF'}`,
  ],
  {
    cwd: root,
    stdio: 'inherit',
    env: { CMAKE_BUILD_PARALLEL_LEVEL: String(availableParallelism()), ...process.env },
  },
);
process.exit(status ?? 1);
