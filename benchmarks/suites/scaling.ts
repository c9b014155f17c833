import { native } from '../../src/bindings.js';
import type { Suite } from '../context.js';
import { race, referenceEntry } from '../race.js';

/** 1, 2, 4, … up to `most`, which is always in. */
function powersUpTo(most: number): number[] {
  const powers: number[] = [];
  for (let n = 1; n < most; n *= 2) powers.push(n);
  return [...powers, most];
}

/** images/s over the batch, and over the number of threads. */
export const scalingSuite: Suite = {
  name: 'scaling',
  what: 'images/s of the encoder over batch size and over threads',
  names: ['batch', 'threads'],
  run: async (context) => {
    const size = context.size('nano');
    const { quick } = context.settings;
    const reference = referenceEntry(context);
    const common = { suite: 'scaling', size, part: 'tokens', rounds: context.rounds(7) } as const;
    const repeat = quick ? 1 : 4;
    if (context.wants('batch')) {
      context.log(`scaling: batch, "${size}"`);
      await race(context, {
        ...common,
        works: powersUpTo(quick ? 4 : 64).map((n) => ({ name: `batch ${n}`, identities: [n], repeat })),
        entries: [
          reference,
          { contestant: 'omni-id', dtype: 'f32' },
          { contestant: 'omni-id', dtype: 'bf16' },
        ],
        at: ({ identities }) => identities[0] ?? 0,
        rowName: (work) => `"${size}" over batch: ${work.name}`,
      });
    }
    if (context.wants('threads')) {
      context.log(`scaling: threads, "${size}"`);
      for (const threads of powersUpTo(native().availableParallelism())) {
        await race(context, {
          ...common,
          works: [
            { name: `${threads} thread${threads === 1 ? '' : 's'}`, identities: [quick ? 4 : 32], repeat },
          ],
          entries: [
            reference,
            { contestant: 'omni-id', dtype: 'f32', threads },
            { contestant: 'omni-id', dtype: 'bf16', threads },
          ],
          at: () => threads,
          rowName: (work) => `"${size}" over threads: ${work.name}`,
        });
      }
    }
  },
};
