// Checks that the kernels of an instruction set share no symbol with anybody: a linker that kept the AVX-512 copy of an inline function for
// everyone would crash older machines. Every symbol that an object defines must lie in its own namespace, and none may be weak.
//
//   node scripts/check-isa-symbols.mjs [build folder, build/native by default]
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const folder = resolve(process.argv[2] ?? join(root, 'build/native'));
const build = join(folder, 'CMakeFiles');
let objects = 0;
const wrong = [];
for (const target of readdirSync(build).filter((name) => name.startsWith('omni_id_kernels_'))) {
  const isa = /^omni_id_kernels_(.+)\.dir$/.exec(target)[1];
  for (const file of readdirSync(join(build, target), { recursive: true }).filter((name) =>
    name.endsWith('.o'),
  )) {
    objects++;
    const lines = execFileSync('nm', ['-C', '--defined-only', join(build, target, file)], {
      encoding: 'utf8',
    }).split('\n');
    for (const line of lines.filter(Boolean)) {
      const [, type, name] = /^\S* ?([a-zA-Z]) (.*)$/.exec(line);
      // Upper case is visible outside of the object; v, w and u are weak and unique ones, which the linker merges.
      const shared = /[A-Z]/.test(type) || /[vwu]/.test(type);
      if (
        shared &&
        !(/[A-Z]/.test(type) && !/[VWU]/.test(type) && name.startsWith(`omni_id::cpu::${isa}::`))
      ) {
        wrong.push(`${isa}: ${type} ${name}`);
      }
    }
  }
}
for (const one of wrong) console.error(one);
console.log(`${objects} objects, ${wrong.length} shared symbols`);
process.exit(objects > 0 && wrong.length === 0 ? 0 : 1);
