// Compiles the addon with AddressSanitizer and UndefinedBehaviorSanitizer to build/sanitize/omni_id.node.
import { spawnSync } from 'node:child_process';
import { copyFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const cmakeJs = createRequire(import.meta.url).resolve('cmake-js/bin/cmake-js');
const { status } = spawnSync(
  process.execPath,
  [cmakeJs, 'compile', '--out', 'build/sanitize', '--CDOMNI_ID_SANITIZE=ON', '--CDOMNI_ID_TESTS=ON'],
  {
    cwd: root,
    stdio: 'inherit',
    env: { CMAKE_BUILD_PARALLEL_LEVEL: String(availableParallelism()), ...process.env },
  },
);
if (status === 0)
  copyFileSync(join(root, 'build/sanitize/Release/omni_id.node'), join(root, 'build/sanitize/omni_id.node'));
process.exit(status ?? 1);
