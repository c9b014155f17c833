// Runs Node with AddressSanitizer's and UndefinedBehaviorSanitizer's run-time libraries loaded first, as an addon built with them needs.
import { execFileSync, spawnSync } from 'node:child_process';

const library = (name) =>
  execFileSync(process.env.CXX ?? 'g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim();
const { status, signal } = spawnSync(process.execPath, process.argv.slice(2), {
  stdio: 'inherit',
  env: { ...process.env, LD_PRELOAD: ['libasan.so', 'libubsan.so', 'libstdc++.so'].map(library).join(':') },
});
process.exit(signal ? 1 : status);
