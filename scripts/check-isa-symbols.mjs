// Checks that the kernels of an instruction set share no symbol with anybody: a linker that kept the AVX-512 copy of an inline function for
// everyone would crash older machines. Every symbol that an object defines must lie in its own namespace, and none may be weak.
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const build = join(dirname(fileURLToPath(import.meta.url)), '../build/native/CMakeFiles');
let objects = 0;
const wrong = [];
for (const folder of readdirSync(build).filter((name) => name.startsWith('omni_id_kernels_'))) {
  const isa = /^omni_id_kernels_(.+)\.dir$/.exec(folder)[1];
  for (const file of readdirSync(join(build, folder), { recursive: true }).filter((name) =>
    name.endsWith('.o'),
  )) {
    objects++;
    const lines = execFileSync('nm', ['-C', '--defined-only', join(build, folder, file)], {
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
