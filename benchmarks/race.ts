import { setTimeout } from 'node:timers/promises';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf } from '../src/errors.js';
import { native } from '../src/bindings.js';
import type { DeviceName } from '../src/graph/devices.js';
import { relativeError, worstCosine } from '../test/support/assert_close.js';
import type { Context } from './context.js';
import { ContestantProcess, type Program } from './contestants/process.js';
import type { Part, Ready, Sample, Task, Work } from './contestants/protocol.js';
import { configOf, modelFolder, pixelsOf, type Size } from './fixtures.js';
import { programArguments } from './paths.js';
import type { Row } from './results.js';
import { tokensPerImage } from '../src/models/clip_vision.js';
import { procedural } from '../test/support/procedural.js';

/** Who takes part, and in what type. */
export interface Entry {
  readonly contestant: string;
  readonly dtype: 'f32' | 'bf16';
  /** Environment besides ours, for example `OMNI_ID_ISA`. */
  readonly env?: Readonly<Record<string, string>>;
  /** How the contestant is called in the results, where its own name would not tell. */
  readonly label?: string;
  readonly threads?: number;
  /** Where ours computes; the CPU where nothing is said. */
  readonly device?: DeviceName;
  /** False for one that only gives the outputs that others are compared with, and has no row. */
  readonly turns?: boolean;
  /** The works that it takes turns with; all by default. */
  readonly turnsOf?: readonly string[];
}

export interface Race {
  readonly suite: string;
  readonly size: Size;
  readonly part: Part;
  readonly works: readonly Work[];
  /** In the order of their turns. Works are compared with the outputs of the first f32 entry that has them. */
  readonly entries: readonly Entry[];
  readonly rounds: number;
  readonly peakSeconds?: number;
  /** Works whose outputs begin as another's: only that much is compared. */
  readonly beginsAs?: Readonly<Record<string, string>>;
  /** Names of the rows; the work's by default. */
  readonly rowName?: (work: Work) => string;
  readonly at?: (work: Work) => number;
}

/** What came of one entry and one work. */
export interface Outcome {
  readonly entry: Entry;
  readonly work: Work;
  readonly row: Row;
  readonly samples: readonly Sample[];
}

/**
 * Whose f32 outputs ours are compared with: a peer's, or those of our kernels for another instruction set. It takes no turns.
 */
export function referenceEntry(context: Context): Entry {
  const peer = context.peer('onnxruntime-node');
  if (peer) return { contestant: peer.name, dtype: 'f32', turns: false };
  const isa = native().instructionSets()[1] ?? 'portable';
  return {
    contestant: 'omni-id',
    dtype: 'f32',
    env: { OMNI_ID_ISA: isa },
    label: `omni-id on ${isa}`,
    turns: false,
  };
}

/** Ours: on the CPU, and on every CUDA device that is measured beside it. */
export function ourEntries(context: Context, entry: Pick<Entry, 'dtype' | 'turnsOf'>): Entry[] {
  const ours = { contestant: 'omni-id', ...entry };
  return [ours, ...context.settings.cuda.map(({ device, label }) => ({ ...ours, device, label }))];
}

interface Runner {
  readonly entry: Entry;
  readonly outputs: string;
  process: ContestantProcess | undefined;
  ready: Ready | undefined;
  failure: string | undefined;
  peakBytes: number | undefined;
  readonly samples: Map<string, Sample[]>;
}

export const photosOf = (work: Work): number => work.identities.reduce((sum, n) => sum + n, 0);

/** f32 agrees to 1e-3 of the largest value at any depth, bf16 to a cosine of 0.999 (0.9999 at the depth of ViT-H): the golden tests' bounds. */
const bounds = {
  relative: 1e-3,
  cosine: { tiny: 0.999, 'nano-synth': 0.999, nano: 0.999, l: 0.9999, h: 0.9999 },
} as const;

function writeInputs(
  context: Context,
  size: Size,
  part: Part,
  photos: number,
): { path: string; shape: number[] } {
  const { vision } = configOf(size);
  const shape =
    part === 'block'
      ? [tokensPerImage(vision), vision.hiddenSize]
      : [vision.numChannels, vision.imageSize, vision.imageSize];
  const elements = shape.reduce((product, n) => product * n, 1);
  const all = new Float32Array(photos * elements);
  for (let i = 0; i < photos; i++)
    all.set(
      part === 'block' ? procedural(`hidden ${i}`, elements, 0, 1.5) : pixelsOf(i, vision.imageSize),
      i * elements,
    );
  const path = join(context.folder, `${size}-${part}-inputs.f32`);
  writeFileSync(path, new Uint8Array(all.buffer));
  return { path, shape };
}

async function programOf(context: Context, race: Race, task: Task, env: Entry['env']): Promise<Program> {
  const peer = context.peer(task.contestant);
  if (!peer)
    return {
      command: process.execPath,
      arguments: [...programArguments('child'), JSON.stringify(task)],
      env,
    };
  const more = await peer.prepare?.(context, { ...race, works: task.works });
  const arguments_ = JSON.stringify({ ...task, moduleFolder: peer.folder, ...more });
  return {
    command: peer.command ?? process.execPath,
    arguments: [...(peer.arguments ?? programArguments('child')), arguments_],
    env,
  };
}

/** One contestant after another starts, so that loading shares neither processor nor memory; then they take turns. */
export async function race(context: Context, race: Race): Promise<Outcome[]> {
  const folder = await modelFolder(race.size, context.log);
  const inputs = writeInputs(context, race.size, race.part, Math.max(...race.works.map(photosOf)));
  const runners: Runner[] = [];
  for (const [i, entry] of race.entries.entries()) {
    const outputs = join(
      context.folder,
      `${race.suite}-${race.size}-${race.part}-${i}-${context.results.rows.length}`,
    );
    mkdirSync(outputs);
    const runner: Runner = { entry, outputs, process: undefined, ready: undefined, failure: undefined, peakBytes: undefined, samples: new Map() }; // prettier-ignore
    runners.push(runner);
    const { contestant, dtype, threads = context.settings.threads, device = 'cpu' } = entry;
    const works = supported(entry, race);
    const { path, shape } = inputs;
    const task: Task = {
      contestant, dtype, threads, device, works, folder, outputs, part: race.part, inputs: path, inputShape: shape,
      peakSeconds: contestant === 'omni-id' && !isEmulated(context, device) ? (race.peakSeconds ?? 0) : 0,
    }; // prettier-ignore
    context.log(`  ${labelOf(entry)} ${dtype}: loading`);
    await attempt(runner, async () => {
      runner.process = new ContestantProcess(contestant, await programOf(context, race, task, entry.env));
      runner.ready = await runner.process.ready();
      if (entry.turns === false) await runner.process.end();
    });
  }
  for (let round = 0; round < race.rounds; round++) {
    for (const work of race.works) {
      for (const runner of runners) {
        if (!takesTurns(runner, work)) continue;
        await attempt(runner, async () => {
          // The threads of the one before may still be spinning.
          if (!context.settings.quick) await setTimeout(50);
          const sample = await runner.process?.sample(work.name);
          if (sample) runner.samples.set(work.name, [...(runner.samples.get(work.name) ?? []), sample]);
        });
      }
    }
  }
  for (const runner of runners) {
    if (runner.failure === undefined && runner.entry.turns !== false) {
      await attempt(runner, async () => {
        runner.peakBytes = await runner.process?.end();
      });
    }
  }
  return race.works.flatMap((work) =>
    runners
      .filter(
        ({ entry, failure }) =>
          supported(entry, race).includes(work) && (isTimed(entry, work) || failure !== undefined),
      )
      .map((runner) => outcome(context, race, runners, runner, work)),
  );
}

/** Peers compute one identity at a time: what the exported models hold. */
function supported({ contestant }: Entry, { works, part }: Race): readonly Work[] {
  return contestant === 'omni-id' || part !== 'tokens'
    ? works
    : works.filter(({ identities }) => identities.length === 1);
}

/** A work of which the entry has a row. */
function isTimed({ turns, turnsOf }: Entry, work: Work): boolean {
  return turns !== false && (turnsOf?.includes(work.name) ?? true);
}

function takesTurns({ entry, failure, ready }: Runner, work: Work): boolean {
  return failure === undefined && isTimed(entry, work) && ready?.works[work.name] !== undefined;
}

/** An emulated device has no peak. */
export function isEmulated(context: Context, device: DeviceName): boolean {
  return context.settings.cuda.some((place) => place.device === device && place.emulated);
}

export function labelOf({ contestant, label }: Entry): string {
  return label ?? contestant;
}

async function attempt(runner: Runner, body: () => Promise<void>): Promise<void> {
  try {
    await body();
  } catch (error) {
    runner.failure = messageOf(error);
    runner.process?.kill();
  }
}

function outputsOf(runner: Runner, work: string): Float32Array {
  const bytes = readFileSync(join(runner.outputs, `${work}.f32`));
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

const isOurs = ({ entry }: Runner): boolean => entry.contestant === 'omni-id' && entry.device === undefined;

/** Those whose outputs of a work are worth comparing with: f32 where there are any. Nobody is compared with ours on a GPU. */
function others(runners: readonly Runner[], runner: Runner, work: string): Runner[] {
  const have = runners.filter(
    (one) => one !== runner && one.entry.device === undefined && one.ready?.works[work] !== undefined,
  );
  const exact = have.filter(({ entry }) => entry.dtype === 'f32');
  return exact.length > 0 ? exact : have;
}

/**
 * How far the outputs are from another's. Ours in f32 is compared with all of them and has to agree with one; everybody else is compared with ours
 * where that takes part, else with the first.
 */
function compared(race: Race, runners: readonly Runner[], runner: Runner, work: Work): Row['error'] {
  const same = others(runners, runner, work.name);
  if (same.length > 0) {
    if (isOurs(runner) && runner.entry.dtype === 'f32')
      return same
        .map((other) => errorBetween(race, runner, other, work.name, work.name))
        .reduce((best, one) => ((one.relative ?? Infinity) < (best.relative ?? Infinity) ? one : best));
    const other = same.find((one) => isOurs(one) && one.entry.dtype === 'f32') ?? same[0];
    return other && errorBetween(race, runner, other, work.name, work.name);
  }
  const beginning = race.beginsAs?.[work.name];
  const other = beginning === undefined ? undefined : others(runners, runner, beginning)[0];
  return other && beginning !== undefined
    ? errorBetween(race, runner, other, work.name, beginning)
    : undefined;
}

/** Outputs of `work` against another's, or as much of them as the other's `reference` has, which they begin as. */
function errorBetween(
  race: Race,
  runner: Runner,
  other: Runner,
  work: string,
  reference: string,
): NonNullable<Row['error']> {
  const whole = outputsOf(runner, work);
  const expected = outputsOf(other, reference);
  const actual = reference === work ? whole : whole.subarray(0, expected.length);
  const against = `${labelOf(other.entry)} ${other.entry.dtype}${reference === work ? '' : `, ${reference}`}`;
  if (actual.length !== expected.length) return { against, relative: null, cosine: null };
  const { vision, width } = configOf(race.size);
  return {
    against,
    relative: finite(relativeError(actual, expected)),
    cosine: finite(worstCosine(actual, expected, race.part === 'tokens' ? width : vision.hiddenSize)),
  };
}

const finite = (value: number): number | null => (Number.isFinite(value) ? value : null);

function outcome(
  context: Context,
  race: Race,
  runners: readonly Runner[],
  runner: Runner,
  work: Work,
): Outcome {
  const { entry, ready, failure, peakBytes } = runner;
  const samples = runner.samples.get(work.name) ?? [];
  const peaks = samples.flatMap(({ peak }) => (peak === undefined ? [] : [peak]));
  const first = ready?.works[work.name];
  const error = first ? compared(race, runners, runner, work) : undefined;
  const wrong =
    error !== undefined &&
    !(entry.dtype === 'f32' && error.against.includes(' f32')
      ? (error.relative ?? NaN) <= bounds.relative
      : (error.cosine ?? NaN) >= bounds.cosine[race.size]);
  const note =
    failure ??
    (wrong
      ? `other numbers than ${error.against}: relative error ${error.relative}, cosine ${error.cosine}`
      : undefined);
  // Flops follow from the model: what ours counts holds for all.
  const flops =
    first?.flops ??
    runners.find((one) => one.ready?.works[work.name]?.flops !== undefined)?.ready?.works[work.name]?.flops;
  const loopDelays = samples.flatMap(({ loopDelay }) => (loopDelay ? [loopDelay] : []));
  const row = context.add({
    suite: race.suite,
    name: race.rowName?.(work) ?? work.name,
    contestant: labelOf(entry),
    dtype: entry.dtype,
    status: failure === undefined ? (wrong ? 'wrong' : 'ok') : 'failed',
    ...(note === undefined ? {} : { note }),
    unit: 's',
    cold: first ? [first.firstSeconds] : [],
    warm: samples.map(({ seconds }) => seconds),
    images: photosOf(work),
    ...(flops === undefined ? {} : { flops }),
    ...(peaks.length > 0 ? { peaks } : {}),
    ...(error ? { error } : {}),
    ...(peakBytes === undefined ? {} : { peakBytes }),
    ...(loopDelays.length > 0
      ? {
          loopDelay: {
            p50: Math.max(...loopDelays.map(({ p50 }) => p50)),
            p99: Math.max(...loopDelays.map(({ p99 }) => p99)),
          },
        }
      : {}),
    ...(race.at ? { at: race.at(work) } : {}),
  });
  return { entry, work, row, samples };
}
