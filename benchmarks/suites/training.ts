import { loadavg } from 'node:os';
import type { Context, Suite } from '../context.js';
import type { Size } from '../fixtures.js';
import type { Row } from '../results.js';
import { median } from '../statistics.js';
import { trainingCase } from '../training/cases.js';
import { trainFromShards } from '../training/data_wait.js';
import { trainingRace } from '../training/race.js';

/** How a configuration is measured: rounds, and steps in a sample, so that a sample is long enough to be timed. */
interface Measure {
  readonly name: string;
  readonly size: Size;
  readonly rounds: number;
  readonly repeat: number;
  readonly oneAtATime: boolean;
}

/** The names of a configuration's ratios. */
function ratiosOf(name: string): { f32: string; bf16: string; memory: string } {
  const ratio = (what: string): string => `train.${name}.${what}`;
  return { f32: ratio('f32.vs_pytorch'), bf16: ratio('bf16.vs_pytorch'), memory: ratio('memory_vs_pytorch') };
}

const dataWait = 'train.data_wait';
const names = [...['nano', 'l'].flatMap((name) => Object.values(ratiosOf(name))), dataWait];

interface Pair {
  readonly ours: Row;
  /** The faster of PyTorch's rows. */
  readonly theirs: Row;
}

/** Ours, and whom it is measured against, where both are right. */
function pairOf(rows: readonly Row[]): Pair | undefined {
  const good = rows.filter(({ status, median: middle }) => status === 'ok' && middle !== null);
  const ours = good.find(({ contestant }) => contestant === 'omni-id');
  const [theirs] = good
    .filter(({ contestant }) => contestant.startsWith('pytorch'))
    .sort((a, b) => (a.median ?? 0) - (b.median ?? 0));
  return ours && theirs && { ours, theirs };
}

/**
 * What a ratio's note says when others computed while it was measured. A library that waits at barriers for every one of its threads loses far more by that than
 * we do: such times compare nothing.
 */
function busy(context: Context): string {
  const [load = 0] = loadavg();
  const { threads, quick } = context.settings;
  // What this suite's own processes make of it is at most their threads.
  return quick || load <= 1.5 * threads ? '' : `; NOT TO BE QUOTED: load average ${load.toFixed(1)}`;
}

async function measure(context: Context, { name, size, rounds, repeat, oneAtATime }: Measure): Promise<void> {
  const ratios = ratiosOf(name);
  const one = trainingCase(size);
  const what = `few-to-many step "${size}", ${one.identities} × ${one.inputs} → ${one.targets}`;
  const shares: { value: number; note: string }[] = [];
  const dtypes = (['f32', 'bf16'] as const).filter(
    (dtype) => context.wants(ratios[dtype]) || context.wants(ratios.memory),
  );
  for (const dtype of dtypes) {
    context.log(`training: ${what}, ${dtype}`);
    const race = {
      one,
      dtype,
      rounds: context.rounds(rounds),
      repeat: context.settings.quick ? 1 : repeat,
      oneAtATime,
    };
    const pair = pairOf(await trainingRace(context, race));
    if (!pair) continue;
    const { ours, theirs } = pair;
    if (context.wants(ratios[dtype])) {
      const samples = ours.warm.map((seconds, i) => (theirs.warm[i] ?? NaN) / seconds);
      const note = `${what}, ${dtype}; identities/s ÷ identities/s of ${theirs.contestant}${busy(context)}`;
      context.ratio({ name: ratios[dtype], value: median(samples), samples, better: 'higher', note });
    }
    if (ours.peakBytes !== undefined && theirs.peakBytes !== undefined) {
      const gigabytes = [ours, theirs].map(({ peakBytes = NaN }) => (peakBytes / 1e9).toFixed(2));
      const note = `${dtype} ${gigabytes.join(' ÷ ')} GB of ${theirs.contestant}`;
      shares.push({ value: ours.peakBytes / theirs.peakBytes, note });
    }
  }
  // Of both types, or there is no worse one.
  if (!context.wants(ratios.memory) || shares.length < dtypes.length || shares.length === 0) return;
  const samples = shares.map(({ value }) => value);
  context.ratio({
    name: ratios.memory,
    value: Math.max(...samples),
    samples,
    better: 'lower',
    note: `${what}; peak resident memory of the processes, the worse of ${shares.map(({ note }) => note).join(', ')}`,
  });
}

/** How long the trainer waits for data. A mean: a median would hide a wait that comes rarely and is long. */
async function measureDataWait(context: Context, size: Size, windows: number): Promise<void> {
  const one = trainingCase(size);
  const what = `trainer "${size}" from shards, ${one.identities} × ${one.inputs} → ${one.targets}`;
  context.log(`training: ${what}, bf16`);
  const { seconds, waits } = await trainFromShards(context, one, 'bf16', windows);
  context.add({
    suite: 'training',
    name: what,
    contestant: 'omni-id',
    dtype: 'bf16',
    status: 'ok',
    unit: 's',
    cold: [],
    warm: seconds,
    identities: one.identities,
  });
  const whole = seconds.reduce((sum, one) => sum + one, 0);
  const waited = seconds.reduce((sum, one, i) => sum + one * (waits[i] ?? NaN), 0);
  const note = `${what}, bf16: share of the time of its steps in which the engine waits for data; photos are JPEG, masks PNG${busy(context)}`;
  context.ratio({ name: dataWait, value: waited / whole, samples: waits, better: 'lower', note });
}

/** Steps of few-to-many training beside PyTorch's, from the same parameters and on the same batch. */
export const trainingSuite: Suite = {
  name: 'training',
  what: 'steps of few-to-many training beside PyTorch: identities/s and memory; and what the trainer waits for data',
  names,
  run: async (context) => {
    const { quick, preset } = context.settings;
    const measures: Measure[] = [
      { name: 'nano', size: quick ? 'tiny' : 'nano', rounds: 7, repeat: 3, oneAtATime: false },
      ...(quick ? [] : [{ name: 'l', size: 'l', rounds: 3, repeat: 1, oneAtATime: true } as const]),
    ];
    for (const one of measures) {
      if (preset !== undefined && preset !== one.size) continue;
      if (Object.values(ratiosOf(one.name)).some((name) => context.wants(name))) await measure(context, one);
    }
    const size = quick ? 'tiny' : 'nano';
    if ((preset === undefined || preset === size) && context.wants(dataWait))
      await measureDataWait(context, size, context.rounds(8));
  },
};
