import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { messageOf } from '../../src/errors.js';
import { native } from '../../src/bindings.js';
import { relativeError } from '../../test/support/assert_close.js';
import type { Context } from '../context.js';
import { ContestantProcess, type Program } from '../contestants/process.js';
import type { Ready, Sample } from '../contestants/protocol.js';
import { programArguments } from '../paths.js';
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
  /** False for one that only gives the losses that others are compared with. */
  readonly turns?: boolean;
}

interface Runner {
  readonly entry: Entry;
  readonly outputs: string;
  process: ContestantProcess | undefined;
  ready: Ready | undefined;
  failure: string | undefined;
  peakBytes: number | undefined;
  readonly samples: Sample[];
}

/** The losses of the first steps agree that far, as a share of the largest. */
const bounds = { f32: 1e-4, bf16: 2e-2 } as const;

/** Ours, and PyTorch as it is and compiled. Without it our losses are compared with those of our kernels for another instruction set. */
function entriesOf(context: Context): Entry[] {
  const ours: Entry = { contestant: 'omni-id', label: 'omni-id' };
  if (context.peer('pytorch')) {
    const eager: Entry = { contestant: 'pytorch', label: 'pytorch' };
    const compiled: Entry = { contestant: 'pytorch', label: 'pytorch compiled', compile: true };
    return [eager, ...(context.settings.quick ? [] : [compiled]), ours];
  }
  const isa = native().instructionSets()[1] ?? 'portable';
  const other: Entry = { ...ours, label: `omni-id on ${isa}`, env: { OMNI_ID_ISA: isa }, turns: false };
  return [other, ours];
}

function programOf(context: Context, entry: Entry, task: TrainingTask): Program {
  const text = JSON.stringify(task);
  if (entry.contestant === 'omni-id')
    return { command: process.execPath, arguments: [...programArguments('child'), text], env: entry.env };
  const command = context.peer('pytorch')?.command ?? '';
  return { command, arguments: [join(peersFolder, 'pytorch_training.py'), text] };
}

async function attempt(runner: Runner, body: () => Promise<void>): Promise<void> {
  try {
    await body();
  } catch (error) {
    runner.failure = messageOf(error);
    runner.process?.kill();
  }
}

export interface TrainingRace {
  readonly one: TrainingCase;
  readonly dtype: 'f32' | 'bf16';
  readonly rounds: number;
  /** Steps of one sample. */
  readonly repeat: number;
}

/** One contestant after another starts, so that loading shares neither processor nor memory; then they take turns, each in a process of its own. */
export async function trainingRace(context: Context, race: TrainingRace): Promise<Row[]> {
  const { one, dtype, repeat } = race;
  const { folder, parameters } = await parametersFolder(one, context.log);
  const batch = join(context.folder, `training-${one.size}`);
  writeBatch(batch, batchOf(one));
  const { threads, quick } = context.settings;
  const runners: Runner[] = [];
  for (const [i, entry] of entriesOf(context).entries()) {
    const outputs = join(context.folder, `training-${one.size}-${dtype}-${i}`);
    mkdirSync(outputs);
    const runner: Runner = { entry, outputs, process: undefined, ready: undefined, failure: undefined, peakBytes: undefined, samples: [] }; // prettier-ignore
    runners.push(runner);
    const works = [
      { name: firstSteps, identities: [], repeat: 1 },
      { name: oneStep, identities: [], repeat },
    ];
    const task: TrainingTask = {
      contestant: entry.contestant,
      dtype,
      threads,
      works,
      outputs,
      folder,
      peakSeconds: entry.contestant === 'omni-id' ? (quick ? 0.02 : 0.1) : 0,
      size: one.size,
      batch,
      case: caseJson(one),
      optimizer,
      decayed: parameters.filter(decays).map(({ name }) => name),
      compile: entry.compile ?? false,
    };
    context.log(`  ${entry.label} ${dtype}: loading, and ${comparedSteps} steps`);
    await attempt(runner, async () => {
      runner.process = new ContestantProcess(entry.label, programOf(context, entry, task));
      runner.ready = await runner.process.ready();
      if (entry.turns === false) await runner.process.end();
    });
  }
  for (let round = 0; round < race.rounds; round++) {
    for (const runner of runners) {
      if (runner.failure !== undefined || runner.entry.turns === false) continue;
      await attempt(runner, async () => {
        // The threads of the one before may still be spinning.
        if (!quick) await setTimeout(50);
        const sample = await runner.process?.sample(oneStep);
        if (sample) runner.samples.push(sample);
      });
    }
  }
  for (const runner of runners) {
    if (runner.failure !== undefined || runner.entry.turns === false) continue;
    await attempt(runner, async () => {
      runner.peakBytes = await runner.process?.end();
    });
  }
  return runners
    .filter(({ entry, failure }) => entry.turns !== false || failure !== undefined)
    .map((runner) => addRow(context, race, runners, runner));
}

function lossesOf({ outputs }: Runner): Float32Array {
  const bytes = readFileSync(join(outputs, `${firstSteps}.f32`));
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

/** The losses of the first steps beside somebody else's: everybody's beside ours, ours beside the first who has any. */
function compared(runners: readonly Runner[], runner: Runner): Row['error'] {
  const others = runners.filter((one) => one !== runner && one.ready !== undefined);
  const other = others.find(({ entry }) => entry.label === 'omni-id') ?? others[0];
  if (!other || !runner.ready) return undefined;
  const relative = relativeError(lossesOf(runner), lossesOf(other));
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
