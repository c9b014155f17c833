import type { Context, Suite } from '../context.js';
import type { Part, Work } from '../contestants/protocol.js';
import { ourEntries, race, referenceEntry, type Entry } from '../race.js';

/** Everybody who computes this part, in every type: peers first, so that ours is compared with theirs. */
export function everybody(context: Context, part: Part): Entry[] {
  const peers = context.peers.filter((peer) => peer.found && peer.parts.includes(part));
  const entries: Entry[] = (['f32', 'bf16'] as const).flatMap((dtype) =>
    peers.filter(({ dtypes }) => dtypes.includes(dtype)).map(({ name }) => ({ contestant: name, dtype })),
  );
  const alone = entries.length === 0 ? [referenceEntry(context)] : [];
  return [
    ...alone,
    ...entries,
    ...ourEntries(context, { dtype: 'f32' }),
    ...ourEntries(context, { dtype: 'bf16' }),
  ];
}

function batches(context: Context, repeat: number): Work[] {
  const times = context.settings.quick ? 1 : repeat;
  return [
    { name: 'batch 1', identities: [1], repeat: times },
    { name: 'batch 4', identities: [4], repeat: times },
  ];
}

/** Photos whose work is short are computed several times for one sample. */
function partSuite(
  name: string,
  what: string,
  parts: readonly { name: string; part: Part; repeat: number }[],
  rounds: number,
): Suite {
  return {
    name,
    what,
    names: parts.map((one) => one.name),
    run: async (context) => {
      for (const { name: row, part, repeat } of parts) {
        if (!context.wants(row)) continue;
        const size = context.size('h');
        context.log(`${name}: ${row} "${size}"`);
        await race(context, {
          suite: name,
          size,
          part,
          works: batches(context, repeat),
          entries: everybody(context, part),
          rounds: context.rounds(rounds),
          peakSeconds: context.settings.quick ? 0.02 : 0.1,
          rowName: (work) => `${row} "${size}", ${work.name}`,
        });
      }
    },
  };
}

export const modelSuite = partSuite(
  'model',
  'the whole encoder, and its CLIP tower alone, beside all peers',
  [
    { name: 'encoder', part: 'tokens', repeat: 1 },
    { name: 'clip', part: 'features', repeat: 1 },
  ],
  5,
);

export const blockSuite = partSuite(
  'block',
  'one layer of the CLIP tower beside all peers',
  [{ name: 'layer', part: 'block', repeat: 4 }],
  9,
);
