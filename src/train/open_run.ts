import { join } from 'node:path';
import { requireReadable } from '../data/check_dataset.js';
import { ArgumentError, DatasetError, FileError } from '../errors.js';
import { removeTemporaryFiles, writeFileAtomically } from '../io/atomic_file.js';
import { liesIn } from '../io/files.js';
import {
  heldOutName,
  readHeldOutRecord,
  writeHeldOutRecord,
  type HeldOutRecord,
} from '../io/held_out_record.js';
import { Checkpoints, checkpointSteps, type DamagedCheckpoint } from './checkpoints.js';
import { checkResumable, difference, type TrainingConfig } from './config.js';
import type { TrainingConsole } from './console.js';
import { DataReport } from './data_report.js';
import { checkDisk, diskNeeds } from './disk.js';
import type { TrainingEngine } from './engine.js';
import { HeldOut } from './held_out.js';
import { runWeights, writeInitialWeights, type RunWeight } from './initial_weights.js';
import { TrainingLogs } from './logs.js';
import { fingerprintOf, openRunData, type DataFingerprint, type RunData } from './run_data.js';
import { checkMemory, memoryFor, memoryNeeds } from './memory.js';
import { decodersOf, openEngine, stepModel } from './run_parts.js';
import { checkRunFolder, configName, configOfRun } from './run_folder.js';
import { configOf, dataOf, restoreRun, type RunProgress } from './run_state.js';
import { counted } from '../text.js';

export interface OpenRunOptions {
  readonly runFolder: string;
  readonly resume?: boolean | undefined;
  readonly console: TrainingConsole;
  readonly signal?: AbortSignal | undefined;
}

/** Everything that a run works with, open. */
export interface RunParts {
  readonly config: TrainingConfig;
  readonly runFolder: string;
  readonly console: TrainingConsole;
  readonly checkpoints: Checkpoints;
  readonly data: RunData;
  readonly fingerprint: DataFingerprint;
  readonly engine: TrainingEngine;
  readonly weights: readonly RunWeight[];
  readonly logs: TrainingLogs;
  readonly report: DataReport;
  readonly heldOut: HeldOut | undefined;
  readonly progress: RunProgress;
  close(): Promise<void>;
}

/** Folders of a run that only the process writes to that holds its lock; `data` may be shared, and checkpoints look after themselves. */
const ownFolders = ['images', 'model'];

type Closer = () => unknown;

/** Closes what was opened, the last first, all of it whatever fails. */
async function closeAll(closers: Closer[]): Promise<void> {
  const errors: unknown[] = [];
  for (const close of closers.splice(0).reverse()) {
    try {
      await close();
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length > 0) throw errors[0];
}

/**
 * Opens a run: from new weights, or where its last checkpoint is. What can be wrong with configuration, data or checkpoints is found here,
 * before the first step.
 */
export async function openRun(config: TrainingConfig, options: OpenRunOptions): Promise<RunParts> {
  const closers: Closer[] = [];
  try {
    return await open(config, options, closers);
  } catch (error) {
    // What went wrong first is what matters.
    await closeAll(closers).catch(() => undefined);
    throw error;
  }
}

/**
 * With other photos a run would not go on as it was. And a data set in which people have come or gone holds out others: some that were trained on until now would be told as held out.
 * @throws {DatasetError} `ERR_DATASET`
 */
async function checkSameData(
  runFolder: string,
  record: HeldOutRecord,
  was: DataFingerprint | undefined,
  is: DataFingerprint,
): Promise<void> {
  const refuse = (why: string): never => {
    throw new DatasetError(`the data set is not the one that ${runFolder} was trained on so far: ${why}`);
  };
  const before = await readHeldOutRecord(runFolder);
  if (before && difference(before, record).length > 0)
    refuse(`other people would be held out than ${join(runFolder, heldOutName)} names`);
  if (was === undefined || was.sha256 === is.sha256) return;
  const size = ({ identities, photos }: DataFingerprint): string =>
    `${counted(identities, 'identity')} with ${counted(photos, 'photo')}`;
  refuse(`that had ${size(was)}, this has ${size(is)}, by other names or in other numbers`);
}

/**
 * A run's pictures would be taken for photos of people.
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`
 */
function checkOutsideOfData(runFolder: string, { data }: TrainingConfig): void {
  if (data.kind === 'rendered') return;
  for (const path of [data.path, data.heldOut.path])
    if (path !== undefined && liesIn(runFolder, path))
      throw new ArgumentError(
        `the run's folder ${runFolder} lies in that of its data, ${path}: expected another`,
      );
}

async function open(
  config: TrainingConfig,
  { runFolder, resume = false, signal = new AbortController().signal, console: output }: OpenRunOptions,
  closers: Closer[],
): Promise<RunParts> {
  const configPath = join(runFolder, configName);
  await checkRunFolder(runFolder, resume);
  checkOutsideOfData(runFolder, config);

  const decoders = decodersOf(config);
  const needs = await memoryNeeds(config, stepModel(config, decoders));
  checkMemory(needs, memoryFor(config));

  const { keepLast, best } = config.checkpoints;
  const checkpoints = await Checkpoints.open(runFolder, { keepLast, best });
  closers.push(() => checkpoints.close());
  await checkDisk(
    runFolder,
    diskNeeds(needs, { keepLast, best, stored: (await checkpointSteps(runFolder)).length }),
  );
  await removeTemporaryFiles(runFolder, false);
  for (const name of ownFolders) await removeTemporaryFiles(join(runFolder, name), true);
  const damaged: DamagedCheckpoint[] = [];
  const stored = await checkpoints.latest((one) => damaged.push(one));
  for (const { folder, error } of damaged)
    output.note(`${folder} is damaged, the one before it is used: ${error.message}`);
  if (stored && !resume) {
    throw new FileError(
      `${runFolder} holds a run that is at step ${stored.step}: go on with it (--resume), or choose another folder`,
    );
  }
  if (stored) checkResumable(configOf(stored), config, stored.folder, stored.step);
  else if (resume) {
    const begun = await configOfRun(runFolder);
    if (begun !== undefined) checkResumable(begun, config, configPath);
  }
  const begin = (): Promise<void> =>
    writeFileAtomically(configPath, (file) => file.writeFile(`${JSON.stringify(config, null, 2)}\n`));
  // Rendering takes long and can be gone on with; data that is refused begins no run.
  if (config.data.kind === 'rendered') await begin();

  closers.push(() => {
    output.prepared();
  });
  const data = await openRunData(config, {
    runFolder,
    signal,
    onRender: (done, total) => {
      output.preparing('rendering photos', done, total);
    },
  });
  closers.push(() => data.close());
  output.prepared();
  if (config.data.kind !== 'rendered') {
    await requireReadable(data.training, { signal });
    if (data.heldOut) await requireReadable(data.heldOut, { signal });
  }
  const fingerprint = fingerprintOf(data.training);
  if (stored) await checkSameData(runFolder, data.record, dataOf(stored), fingerprint);
  if (config.data.kind !== 'rendered') await begin();
  await writeHeldOutRecord(runFolder, data.record);

  const { steps, optimizer } = config;
  if (steps < optimizer.warmupSteps)
    output.note(
      `steps is ${steps}, optimizer.warmupSteps ${optimizer.warmupSteps}: the learning rate does not reach its full height`,
    );
  const millions = (needs.parameters / 1e6).toPrecision(3);
  output.note(`${stored ? 'reading' : 'initialising'} ${millions} million parameters`);
  const engine = openEngine(config, decoders);
  closers.push(() => {
    engine.dispose();
  });
  const weights = runWeights(config, engine);
  let progress: RunProgress = {
    step: 0,
    updates: 0,
    skipped: 0,
    skippedInARow: 0,
    heldOutLoss: undefined,
    heldOutStep: undefined,
    savedStep: undefined,
  };
  if (stored) progress = await restoreRun(stored, engine, weights);
  else await writeInitialWeights(config, engine, signal);
  signal.throwIfAborted();
  const { step } = progress;

  const logs = TrainingLogs.open(runFolder, step, { tensorboard: config.log.tensorboard });
  closers.push(() => {
    logs.close();
  });
  for (const { folder, error } of damaged) logs.event(step, 'damaged', { folder, reason: error.message });
  const report = new DataReport(logs, output);
  const heldOut =
    data.heldOut &&
    new HeldOut(config, engine, data.heldOut, (problem) => {
      report.unreadable(progress.step, 'held-out', problem);
    });
  closers.push(() => heldOut?.dispose());
  if (stored) output.note(`resumed at step ${step}`);
  else if (resume) output.note(`${runFolder} has no checkpoint yet: beginning at step 0`);

  const parts = {
    config,
    runFolder,
    console: output,
    checkpoints,
    data,
    fingerprint,
    engine,
    weights,
    logs,
    report,
  };
  return { ...parts, heldOut, progress, close: () => closeAll(closers) };
}
