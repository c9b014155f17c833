// What the CUDA kernels need and what they could reach, without a graphics processor:
//   npm run cuda:report -- [--architectures 80,90] [--only layer_norm]
// Compiles every file of kernels for every architecture and prints of each kernel its registers, shared memory and how many warps of the most there
// can be a multiprocessor holds; then of each operator in a training step, and of what is not in one, bytes, flops, and the least time that they take
// on three cards.
// Fails on a spill or a stack frame, where a block does not fit, and where a kernel does not say how many threads or how much shared memory it takes.
import { readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { compile } from './cuda-report/kernels.mjs';
import { limits, occupancy } from './cuda-report/occupancy.mjs';
import { besides, cards, roofline } from './cuda-report/roofline.mjs';

const root = join(import.meta.dirname, '..');
const { values } = parseArgs({
  options: {
    architectures: { type: 'string', default: Object.keys(limits).join(',') },
    only: { type: 'string', default: '' },
  },
});
const architectures = values.architectures.split(',').map(Number);
for (const architecture of architectures) {
  if (!(architecture in limits)) {
    throw new Error(`architecture ${architecture}, expected some of ${Object.keys(limits).join(', ')}`);
  }
}
// probe.cu is loaded, never launched.
const units = ['operators', '.'].flatMap((folder) =>
  readdirSync(join(root, 'native/cuda', folder))
    .filter((name) => name.endsWith('.cu') && name !== 'probe.cu')
    .filter((name) => name.startsWith(values.only))
    .map((name) => join(folder, name)),
);
if (units.length === 0) throw new Error(`no file of kernels begins with "${values.only}"`);

/** Prints rows with columns as wide as they need; numbers stand on the right. */
function table(head, rows) {
  const widths = head.map((_, i) => Math.max(...[head, ...rows].map((row) => String(row[i]).length)));
  const line = (row) => row.map((cell, i) => (i === 0 ? String(cell).padEnd(widths[i]) : String(cell).padStart(widths[i]))).join('  '); // prettier-ignore
  console.log([line(head), ...rows.map(line)].join('\n'));
}

/** What is wrong with a kernel. */
function faults({ threads, expectedThreads, dynamicShared, spills, stack, ...kernel }) {
  const found = [];
  if (spills > 0) found.push(`spills ${spills} bytes`);
  if (stack > 0) found.push(`a stack frame of ${stack} bytes`);
  if (threads === undefined) found.push('no __launch_bounds__');
  if (threads !== expectedThreads)
    found.push(`__launch_bounds__ of ${threads}, expect_threads of ${expectedThreads}`);
  if (dynamicShared === undefined) found.push('dynamic shared memory without expect_dynamic_shared');
  if (threads !== undefined && dynamicShared !== undefined) {
    const { blocks, limitedBy } = occupancy({ ...kernel, threads, dynamicShared });
    if (blocks < 1) found.push(`no block fits: ${limitedBy}`);
  }
  return found;
}

const jobs = units.flatMap((unit) => architectures.map((architecture) => ({ unit, architecture })));
const kernels = [];
const next = async () => {
  for (let job = jobs.shift(); job; job = jobs.shift()) kernels.push(...(await compile(root, job.unit, job.architecture)));
}; // prettier-ignore
await Promise.all(Array.from({ length: availableParallelism() }, next));

const failed = [];
for (const unit of units) {
  const ofUnit = kernels.filter((kernel) => kernel.unit === unit);
  if (ofUnit.length === 0) continue;
  console.log(
    `\n${basename(unit)}: registers and occupancy by architecture; shared memory and threads of a block`,
  );
  const names = [...new Set(ofUnit.map(({ name }) => name))].sort();
  const rows = names.map((name) => {
    const same = architectures.map((architecture) =>
      ofUnit.find((kernel) => kernel.name === name && kernel.architecture === architecture),
    );
    const [first] = same;
    const cells = same.map((kernel) => {
      if (!kernel) return '-';
      const wrong = faults(kernel);
      failed.push(...wrong.map((what) => `${name} (${unit}) on sm_${kernel.architecture}: ${what}`));
      if (kernel.threads === undefined || kernel.dynamicShared === undefined)
        return `${kernel.registers}   ?`;
      const share = Math.round(100 * occupancy(kernel).occupancy);
      return `${kernel.registers} ${String(share).padStart(3)}%${wrong.length > 0 ? ' !' : ''}`;
    });
    return [
      name,
      ...cells,
      `${first?.staticShared ?? '?'} + ${first?.dynamicShared ?? '?'}`,
      first?.threads ?? '?',
    ];
  });
  table(['kernel', ...architectures.map((architecture) => `sm_${architecture}`), 'shared', 'threads'], rows);
}

const unitOf = (value, units_) => {
  const [scale, name] = units_.find(([least]) => value >= least) ?? units_.at(-1);
  return `${(value / scale).toPrecision(3)} ${name}`;
};
const bytes = (value) => unitOf(value, [[1e9, 'GB'], [1e6, 'MB'], [1e3, 'kB'], [1, 'B']]); // prettier-ignore
const flops = (value) => unitOf(value, [[1e12, 'TFLOP'], [1e9, 'GFLOP'], [1e6, 'MFLOP'], [1, 'FLOP']]); // prettier-ignore
const time = (value) => unitOf(value, [[1, 's'], [1e-3, 'ms'], [1e-6, 'us'], [1e-9, 'ns']]); // prettier-ignore
/** Prints what operators take at least, and together when they are those of one step. */
function printOperators(title, rows, together) {
  console.log(`\n${title}: the least time`);
  const total = cards.map((_, i) => rows.reduce((sum, { seconds }) => sum + seconds[i], 0));
  table(
    ['operator', 'uses', 'largest output', 'bytes', 'flops', ...cards.map(({ name }) => name)],
    [
      ...rows.map(({ op, count, largest, seconds, ...sum }) => [op, count, largest, bytes(sum.bytes), flops(sum.flops), ...seconds.map(time)]),
      ...(together ? [['all', '', '', '', '', ...total.map(time)]] : []),
    ], // prettier-ignore
  );
}
for (const [preset, identities] of [
  ['nano', 64],
  ['h', 8],
]) {
  const title = `One training step of the encoder "${preset}" with a masked decoder, bf16, ${identities} identities of 3 photos and 8 targets`;
  printOperators(title, roofline(preset, identities), true);
}
printOperators('In no training step', besides(), false);

console.log(
  `\n${new Set(kernels.map(({ unit, name }) => unit + name)).size} kernels, ${architectures.length} architectures, ${failed.length} faults`,
);
for (const what of failed) console.error(what);
process.exit(failed.length > 0 ? 1 : 0);
