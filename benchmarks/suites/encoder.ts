import { native } from '../../src/bindings.js';
import type { Context, Suite } from '../context.js';
import type { Entry, Outcome, Race } from '../race.js';
import { ourEntries, photosOf, race, referenceEntry } from '../race.js';
import { peakShares } from '../results.js';
import { median } from '../statistics.js';
import { jpegRatio } from './encoder_jpeg.js';
import { memoryRatio, startRatio } from './encoder_process.js';

/** Photos of the eight identities of `ragged.vs_uniform`: 1 to 7 each, 32 in all, as many as eight identities of four have. */
const ragged = [1, 2, 3, 4, 5, 6, 7, 4];

/** Every ratio, in the order in which they are measured. Those of one list are measured in one race. */
const races = {
  f32: ['encoder.f32.peak', 'encoder.f32.vs_onnxruntime'],
  bf16: [
    'encoder.bf16.peak',
    'encoder.bf16.vs_pytorch',
    'encoder.bf16.batch1.peak',
    'loop.p99_ms',
    'ragged.vs_uniform',
  ],
  nano: ['nano.bf16.peak'],
  avx2: ['avx2.f32.peak'],
  start: ['start.seconds'],
  memory: ['memory.bytes'],
  jpeg: ['jpeg.vs_ideal'],
} as const;

const peakSeconds = { full: 0.1, quick: 0.02 } as const;

function encoderRace(
  context: Context,
  rest: Pick<Race, 'works' | 'entries' | 'rounds'> & Partial<Race>,
): Race {
  return {
    suite: 'encoder',
    size: context.size('h'),
    part: 'tokens',
    peakSeconds: context.settings.quick ? peakSeconds.quick : peakSeconds.full,
    ...rest,
  };
}

function find(
  outcomes: readonly Outcome[],
  contestant: string,
  dtype: string,
  work: string,
): Outcome | undefined {
  return outcomes.find(
    ({ entry, work: { name } }) =>
      entry.contestant === contestant && entry.device === undefined && entry.dtype === dtype && name === work,
  );
}

/** Share of the peak that was measured around every sample. */
function peakRatio(context: Context, name: string, outcome: Outcome | undefined, note: string): void {
  if (!context.wants(name) || outcome?.row.status !== 'ok' || outcome.row.flops === undefined) return;
  const { warm, peaks = [], flops } = outcome.row;
  const samples = peakShares(flops, warm, peaks);
  context.ratio({ name, value: median(samples), samples, better: 'higher', note });
}

/** How many times as fast ours is as the other, turn by turn. */
function speedRatio(
  context: Context,
  name: string,
  ours: Outcome | undefined,
  other: Outcome | undefined,
  note: string,
): void {
  if (!context.wants(name) || ours?.row.status !== 'ok' || other?.row.status !== 'ok') return;
  const perImage = ({ row, work }: Outcome): number[] => row.warm.map((seconds) => seconds / photosOf(work));
  const theirs = perImage(other);
  const samples = perImage(ours).map((seconds, i) => (theirs[i] ?? NaN) / seconds);
  context.ratio({ name, value: median(samples), samples, better: 'higher', note });
}

const batch4 = { name: 'batch 4', identities: [4], repeat: 1 };
const batch1 = { name: 'batch 1', identities: [1], repeat: 1 };

async function f32(context: Context): Promise<void> {
  const peer = context.wants('encoder.f32.vs_onnxruntime') ? context.peer('onnxruntime-node') : undefined;
  const entries: Entry[] = [
    peer ? { contestant: peer.name, dtype: 'f32' } : referenceEntry(context),
    ...ourEntries(context, { dtype: 'f32' }),
  ];
  const outcomes = await race(
    context,
    encoderRace(context, { works: [batch4], entries, rounds: context.rounds(5) }),
  );
  const ours = find(outcomes, 'omni-id', 'f32', batch4.name);
  const what = `encoder "${context.size('h')}", f32, one identity of 4 photos, pixels to tokens`;
  peakRatio(context, 'encoder.f32.peak', ours, `${what}; GFLOP/s ÷ peak`);
  const theirs = find(outcomes, 'onnxruntime-node', 'f32', batch4.name);
  speedRatio(
    context,
    'encoder.f32.vs_onnxruntime',
    ours,
    theirs,
    `${what}, the whole encoder exported; images/s ÷ images/s`,
  );
}

async function bf16(context: Context): Promise<void> {
  const wants = (...names: string[]): boolean => names.some((name) => context.wants(name));
  const peer = wants('encoder.bf16.vs_pytorch') ? context.peer('pytorch') : undefined;
  const eight = wants('ragged.vs_uniform');
  const works = [
    ...(wants('encoder.bf16.peak', 'encoder.bf16.vs_pytorch', 'loop.p99_ms') || eight ? [batch4] : []),
    ...(wants('encoder.bf16.batch1.peak') || eight ? [batch1] : []),
  ];
  const entries: Entry[] = [
    referenceEntry(context),
    ...(peer ? [{ contestant: peer.name, dtype: 'bf16' } as const] : []),
    ...ourEntries(context, { dtype: 'bf16' }),
  ];
  const outcomes = await race(context, encoderRace(context, { works, entries, rounds: context.rounds(5) }));
  const ours = find(outcomes, 'omni-id', 'bf16', batch4.name);
  const size = context.size('h');
  const what = `encoder "${size}", bf16, one identity of 4 photos, pixels to tokens`;
  peakRatio(context, 'encoder.bf16.peak', ours, `${what}; GFLOP/s ÷ peak`);
  speedRatio(
    context,
    'encoder.bf16.vs_pytorch',
    ours,
    find(outcomes, 'pytorch', 'bf16', batch4.name),
    `${what}; images/s ÷ images/s`,
  );
  const single = find(outcomes, 'omni-id', 'bf16', batch1.name);
  peakRatio(
    context,
    'encoder.bf16.batch1.peak',
    single,
    `encoder "${size}", bf16, one photo; GFLOP/s ÷ peak`,
  );
  if (context.wants('loop.p99_ms') && ours) {
    const samples = ours.samples.flatMap(({ loopDelay }) => (loopDelay ? [1e3 * loopDelay.p99] : []));
    const note = `${what}; p99 of the time between two ticks of a 1 ms timer, so that an idle loop has 1.1`;
    if (samples.length > 0)
      context.ratio({ name: 'loop.p99_ms', value: median(samples), samples, better: 'lower', note });
  }
  if (eight) await raggedRace(context);
}

async function raggedRace(context: Context): Promise<void> {
  const uniformWork = { name: 'uniform', identities: ragged.map(() => 4), repeat: 1 };
  const raggedWork = { name: 'ragged', identities: ragged, repeat: 1 };
  const works = [uniformWork, raggedWork, batch1, batch4];
  const outcomes = await race(
    context,
    encoderRace(context, {
      works,
      entries: [
        referenceEntry(context),
        ...ourEntries(context, { dtype: 'bf16', turnsOf: [uniformWork.name, raggedWork.name] }),
      ],
      rounds: context.rounds(3),
      // The first identity of each is an identity that others compute by itself.
      beginsAs: { [uniformWork.name]: batch4.name, [raggedWork.name]: batch1.name },
    }),
  );
  speedRatio(
    context,
    'ragged.vs_uniform',
    find(outcomes, 'omni-id', 'bf16', raggedWork.name),
    find(outcomes, 'omni-id', 'bf16', uniformWork.name),
    `encoder "${context.size('h')}", bf16, 8 identities of ${ragged.join(', ')} photos ÷ 8 identities of 4; images/s ÷ images/s`,
  );
}

async function nano(context: Context): Promise<void> {
  const size = context.settings.quick ? 'tiny' : 'nano';
  const work = {
    name: 'batch 32',
    identities: Array.from({ length: 8 }, () => 4),
    repeat: context.settings.quick ? 1 : 5,
  };
  const entries: Entry[] = [
    referenceEntry(context),
    ...ourEntries(context, { dtype: 'bf16', turnsOf: [work.name] }),
  ];
  const outcomes = await race(
    context,
    encoderRace(context, {
      size,
      works: [batch4, work],
      entries,
      rounds: context.rounds(9),
      beginsAs: { [work.name]: batch4.name },
    }),
  );
  const note = `encoder "${size}", bf16, 8 identities of 4 photos, pixels to tokens; GFLOP/s ÷ peak`;
  peakRatio(context, 'nano.bf16.peak', find(outcomes, 'omni-id', 'bf16', work.name), note);
}

async function avx2(context: Context): Promise<void> {
  if (!native().instructionSets().includes('avx2')) {
    context.log('  left out: no AVX2 here');
    return;
  }
  const ours: Entry = {
    contestant: 'omni-id',
    dtype: 'f32',
    env: { OMNI_ID_ISA: 'avx2' },
    label: 'omni-id on avx2',
  };
  const reference: Entry = context.peer('onnxruntime-node')
    ? referenceEntry(context)
    : { contestant: 'omni-id', dtype: 'f32', turns: false };
  const entries = [reference, ours];
  const outcomes = await race(
    context,
    encoderRace(context, { works: [batch4], entries, rounds: context.rounds(3) }),
  );
  peakRatio(
    context,
    'avx2.f32.peak',
    outcomes.find(({ entry }) => entry === ours),
    `encoder "${context.size('h')}", f32, one identity of 4 photos, OMNI_ID_ISA=avx2; GFLOP/s ÷ its peak`,
  );
}

/** Every bar that the encoder is held to, as `ratio <name> <value>`. */
export const encoderSuite: Suite = {
  name: 'encoder',
  what: 'the whole encoder against the peaks of the machine and its peers',
  names: Object.values(races).flat(),
  run: async (context) => {
    const parts = { f32, bf16, nano, avx2, start: startRatio, memory: memoryRatio, jpeg: jpegRatio };
    for (const [name, part] of Object.entries(parts)) {
      if (!races[name as keyof typeof races].some((ratio) => context.wants(ratio))) continue;
      context.log(
        `encoder: ${races[name as keyof typeof races].filter((ratio) => context.wants(ratio)).join(', ')}`,
      );
      await part(context);
    }
  },
};
