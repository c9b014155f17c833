import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { messageOf } from '../../src/errors.js';
import { native } from '../../src/bindings.js';
import type { DeviceName } from '../../src/graph/devices.js';
import { relativeError } from '../../test/support/assert_close.js';
import type { Context } from '../context.js';
import { ContestantProcess, type Program } from '../contestants/process.js';
import type { Ready, Sample } from '../contestants/protocol.js';
import { programArguments } from '../paths.js';
import { isEmulated } from '../race.js';
import { peersFolder } from '../peers/modules.js';
import type { Row } from '../results.js';
import { batchOf, caseJson, decays, optimizer, parametersFolder, writeBatch, type TrainingCase } from './cases.js'; // prettier-ignore
import { comparedSteps, firstSteps, oneStep, type TrainingTask } from './protocol.js';

/** Who takes part in a race. */
interface Entry {
  readonly contestant: 'omni-id' | 'pytorch';
  readonly label: string;
  readonly compile?: boolean;
  readonly env?: Readonly<Record<string, string>>;
  /** Where ours computes; the CPU where nothing is said. */
  readonly device?: DeviceName;
  /** False for one that only gives the losses that others are compared with. */
  readonly turns?: boolean;
}

/** The losses of the first steps agree that far, as a share of the largest. */
const bounds = { f32: 1e-4, bf16: 2e-2 } as const;

/**
 * Ours, and PyTorch as it is and compiled (where it is compiled once, not in every turn). Without it our losses are compared with those of our kernels for another
 * instruction set.
 */
function entriesOf(context: Context, oneAtATime: boolean): Entry[] {
  const ours: Entry = { contestant: 'omni-id', label: 'omni-id' };
  const everywhere = [
    ours,
    ...context.settings.cuda.map(({ device, label }) => ({ ...ours, device, label })),
  ];
  if (context.peer('pytorch')) {
    const eager: Entry = { contestant: 'pytorch', label: 'pytorch' };
    const compiled: Entry = { contestant: 'pytorch', label: 'pytorch compiled', compile: true };
    return [eager, ...(context.settings.quick || oneAtATime ? [] : [compiled]), ...everywhere];
  }
  // Those with AVX-512 share their kernels for f32.
  const isas = native().instructionSets().slice(1);
  const isa = isas.find((name) => !name.startsWith('avx512')) ?? 'portable';
  const other: Entry = { ...ours, label: `omni-id on ${isa}`, env: { OMNI_ID_ISA: isa }, turns: false };
  return [other, ...everywhere];
}

function programOf(context: Context, entry: Entry, task: TrainingTask): Program {
  const text = JSON.stringify(task);
  if (entry.contestant === 'omni-id')
    return { command: process.execPath, arguments: [...programArguments('child'), text], env: entry.env };
  const command = context.peer('pytorch')?.command ?? '';
  return { command, arguments: [join(peersFolder, 'pytorch_training.py'), text] };
}

/** A contestant and what came of it. Once something went wrong nothing more is asked of it. */
class Runner {
  ready: Ready | undefined;
  failure: string | undefined;
  peakBytes: number | undefined;
  readonly samples: Sample[] = [];
  #process: ContestantProcess | undefined;

  constructor(
    readonly entry: Entry,
    private readonly program: Program,
    private readonly outputs: string,
  ) {}

  start(): Promise<void> {
    return this.#attempt(async () => {
      this.#process = new ContestantProcess(this.entry.label, this.program);
      this.ready = await this.#process.ready();
    });
  }

  sample(): Promise<void> {
    return this.#attempt(async () => {
      const sample = await this.#process?.sample(oneStep);
      if (sample) this.samples.push(sample);
    });
  }

  end(): Promise<void> {
    return this.#attempt(async () => {
      const bytes = (await this.#process?.end()) ?? 0;
      this.peakBytes = Math.max(this.peakBytes ?? 0, bytes);
    });
  }

  /** Losses of the first steps; nothing where it has written none. */
  get losses(): Float32Array {
    const path = join(this.outputs, `${firstSteps}.f32`);
    if (!existsSync(path)) return new Float32Array();
    const bytes = readFileSync(path);
    return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  }

  async #attempt(body: () => Promise<void>): Promise<void> {
    if (this.failure !== undefined) return;
    try {
      await body();
    } catch (error) {
      this.failure = messageOf(error);
      this.#process?.kill();
    }
  }
}

export interface TrainingRace {
  readonly one: TrainingCase;
  readonly dtype: 'f32' | 'bf16';
  readonly rounds: number;
  /** Steps of one sample. */
  readonly repeat: number;
  /** Whether only one contestant at a time has a process, because two would not fit into memory: every turn begins with loading. */
  readonly oneAtATime: boolean;
}

async function newRunner(context: Context, race: TrainingRace, entry: Entry): Promise<Runner> {
  const { one, dtype } = race;
  const { folder, parameters } = await parametersFolder(one, context.log);
  const { threads, quick } = context.settings;
  const { device = 'cpu' } = entry;
  const batch = join(context.folder, `training-${one.size}`);
  if (!existsSync(batch)) writeBatch(batch, batchOf(one));
  const outputs = join(context.folder, `training-${one.size}-${dtype}-${entry.label.replaceAll(' ', '-')}`);
  mkdirSync(outputs);
  const task: TrainingTask = {
    contestant: entry.contestant,
    dtype,
    device,
    threads,
    works: [
      { name: firstSteps, identities: [], repeat: 1 },
      { name: oneStep, identities: [], repeat: race.repeat },
    ],
    outputs,
    folder,
    peakSeconds: entry.contestant !== 'omni-id' || isEmulated(context, device) ? 0 : quick ? 0.02 : 0.1,
    size: one.size,
    batch,
    case: caseJson(one),
    optimizer,
    decayed: parameters.filter(decays).map(({ name }) => name),
    compile: entry.compile ?? false,
  };
  return new Runner(entry, programOf(context, entry, task), outputs);
}

/**
 * One contestant after another starts, so that loading shares neither processor nor memory; then they take turns, each in a process of its own: the most memory
 * that it had is that of its training alone.
 */
export async function trainingRace(context: Context, race: TrainingRace): Promise<Row[]> {
  const { dtype, rounds, oneAtATime } = race;
  const runners: Runner[] = [];
  for (const entry of entriesOf(context, oneAtATime)) {
    const runner = await newRunner(context, race, entry);
    runners.push(runner);
    if (oneAtATime && entry.turns !== false) continue;
    context.log(`  ${entry.label} ${dtype}: loading, and ${comparedSteps} steps`);
    await runner.start();
    if (entry.turns === false) await runner.end();
  }
  const racing = runners.filter(({ entry }) => entry.turns !== false);
  for (let round = 0; round < rounds; round++) {
    for (const runner of racing) {
      if (oneAtATime) {
        context.log(`  ${runner.entry.label} ${dtype}: round ${round + 1} of ${rounds}`);
        await runner.start();
      }
      // The threads of the one before may still be spinning.
      if (!context.settings.quick) await setTimeout(50);
      await runner.sample();
      if (oneAtATime) await runner.end();
    }
  }
  if (!oneAtATime) for (const runner of racing) await runner.end();
  return runners
    .filter(({ entry, failure }) => entry.turns !== false || failure !== undefined)
    .map((runner) => addRow(context, race, runners, runner));
}

/** The losses of the first steps beside somebody else's: everybody's beside ours on the CPU, those beside the first who has any. */
function compared(runners: readonly Runner[], runner: Runner): Row['error'] {
  const others = runners.filter(
    (one) => one !== runner && one.ready !== undefined && one.entry.device === undefined,
  );
  const other = others.find(({ entry }) => entry.label === 'omni-id') ?? others[0];
  if (!other || !runner.ready) return undefined;
  const [mine, theirs] = [runner.losses, other.losses];
  const relative = mine.length === theirs.length ? relativeError(mine, theirs) : NaN;
  return {
    against: `${other.entry.label}, ${comparedSteps} losses`,
    relative: Number.isFinite(relative) ? relative : null,
    cosine: null,
  };
}

function addRow(context: Context, race: TrainingRace, runners: readonly Runner[], runner: Runner): Row {
  const { one, dtype } = race;
  const { entry, ready, failure, samples, peakBytes } = runner;
  const error = compared(runners, runner);
  const wrong = error !== undefined && !((error.relative ?? NaN) <= bounds[dtype]);
  const note =
    failure ?? (wrong ? `other losses than ${error.against}: relative error ${error.relative}` : undefined);
  const first = ready?.works[firstSteps];
  // Flops follow from the model: what ours counts holds for all.
  const flops = runners.find((other) => other.ready?.works[oneStep]?.flops !== undefined)?.ready?.works[
    oneStep
  ]?.flops;
  const peaks = samples.flatMap(({ peak }) => (peak === undefined ? [] : [peak]));
  return context.add({
    suite: 'training',
    name: `step "${one.size}", ${one.identities} × ${one.inputs} → ${one.targets}`,
    contestant: entry.label,
    dtype,
    status: failure === undefined ? (wrong ? 'wrong' : 'ok') : 'failed',
    ...(note === undefined ? {} : { note }),
    unit: 's',
    cold: first ? [first.firstSeconds / comparedSteps] : [],
    warm: samples.map(({ seconds }) => seconds),
    identities: one.identities,
    ...(flops === undefined ? {} : { flops }),
    ...(peaks.length > 0 ? { peaks } : {}),
    ...(error ? { error } : {}),
    ...(peakBytes === undefined ? {} : { peakBytes }),
  });
}
