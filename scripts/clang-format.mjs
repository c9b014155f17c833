// Formats native/ and bindings/ with clang-format; with --check, only tells whether they are formatted.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const clangFormat = join(
  dirname(createRequire(import.meta.url).resolve('clang-format/package.json')),
  'index.js',
);
const sources = ['native', 'bindings'].flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true })
    .filter((name) => /\.(cpp|h|cu|cuh)$/.test(name))
    .map((name) => join(root, folder, name)),
);
const mode = process.argv.includes('--check') ? ['--dry-run', '--Werror'] : ['-i'];
const { status } = spawnSync(process.execPath, [clangFormat, '-style=file', ...mode, ...sources], {
  cwd: root,
  stdio: 'inherit',
});
process.exit(status ?? 1);
