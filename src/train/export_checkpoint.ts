import { open, type FileHandle } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { FileError } from '../errors.js';
import { removeTemporaryFiles } from '../io/atomic_file.js';
import type { OmniIdEncoderConfig } from '../io/config.js';
import { filesIn, isFile, readFully } from '../io/files.js';
import { heldOutName, readHeldOutRecord } from '../io/held_out_record.js';
import { omniIdWeights } from '../models/omni_id_encoder.js';
import { checkFolder, checkOptions } from '../options.js';
import type { StoredCheckpoint } from './checkpoint_folder.js';
import {
  bestCheckpoint,
  checkpointOfStep,
  checkpointSteps,
  latestCheckpoint,
  type DamagedCheckpoint,
} from './checkpoints.js';
import { parseTrainingConfig } from './config.js';
import type { Decoder } from './decoders.js';
import { exportModel, type ExportedWeight } from './export.js';
import type { StateVector } from './parameters.js';
import { decodersOf } from './run_parts.js';
import { checkModelFolder, checkRunFolder } from './run_folder.js';
import { configOf, fixedGroup } from './run_state.js';

export interface ExportCheckpointOptions {
  /** Folder of the run. */
  readonly runFolder: string;
  /** Folder to write the model into, as training does into `model/` of the run. Made where there is none; a model that is there is replaced, a folder of anything else refused. */
  readonly folder: string;
  /** `best` has the lowest held-out loss of those that are kept; a number is that step's. Default: `latest`. */
  readonly checkpoint?: 'latest' | 'best' | number;
}

/** What was exported. */
export interface ExportedCheckpoint {
  readonly step: number;
  /** Undefined when it was not measured at that step. */
  readonly heldOutLoss: number | undefined;
  /** Checkpoints that were passed over, as they are damaged, and why. */
  readonly damaged: readonly { readonly folder: string; readonly message: string }[];
}

async function find(
  runFolder: string,
  which: 'latest' | 'best' | number,
  onDamaged: (damaged: DamagedCheckpoint) => void,
): Promise<StoredCheckpoint> {
  const found =
    which === 'latest'
      ? await latestCheckpoint(runFolder, onDamaged)
      : which === 'best'
        ? await bestCheckpoint(runFolder, onDamaged)
        : await checkpointOfStep(runFolder, which);
  if (found) return found;
  await checkRunFolder(runFolder, true);
  const steps = await checkpointSteps(runFolder);
  if (steps.length === 0) throw new FileError(`${runFolder} has no checkpoint yet`);
  const missing = which === 'best' ? 'with a held-out loss' : `of step ${which}`;
  throw new FileError(
    `${runFolder} has no checkpoint ${missing}: there are those of steps ${steps.join(', ')}`,
  );
}

/**
 * A decoder that the model has not would stay beside it, and be taken for its own.
 * @throws {FileError} `ERR_FILE`
 */
async function checkNoOtherDecoders(folder: string, decoders: readonly Decoder[]): Promise<void> {
  const own = new Set(decoders.map(({ name }) => name));
  for (const path of await filesIn(folder)) {
    if (own.has(basename(path)) || !(await isFile(join(path, 'model.safetensors')))) continue;
    throw new FileError(
      `${path} is a decoder of another model, which this one has not: expected a new folder, or one without it`,
    );
  }
}

/** The weights in a group of a checkpoint, read from a file that is open. */
async function weightsOf(
  stored: StoredCheckpoint,
  group: string,
  file: FileHandle,
): Promise<ExportedWeight[]> {
  const tensors = await stored.tensors(group);
  return [...tensors].map(([name, { shape, byteOffset }]) => ({
    name,
    shape,
    read: async (first: number, count: number) => {
      const bytes = new Uint8Array(4 * count);
      await readFully(file, bytes, byteOffset + 4 * first, stored.path(group));
      return new Float32Array(bytes.buffer);
    },
  }));
}

/** The encoder's weights as its list of weights has them, then all others: as training writes them. */
function inPublishedOrder(
  weights: readonly ExportedWeight[],
  encoder: OmniIdEncoderConfig,
): ExportedWeight[] {
  const places = new Map([...omniIdWeights(encoder).keys()].map((name, i) => [`encoder.${name}`, i]));
  const placeOf = ({ name }: ExportedWeight): number => places.get(name) ?? places.size;
  return [...weights].sort((a, b) => placeOf(a) - placeOf(b));
}

/**
 * Writes the model of one of a run's checkpoints, as training does of its last step: the moving average of the weights where the run keeps one. The
 * run may be going on meanwhile. Peak memory: 16 MiB.
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`; {FileError} `ERR_FILE` when there is no such checkpoint; {FormatError} `ERR_FORMAT` when it is damaged
 */
export async function exportCheckpoint(options: ExportCheckpointOptions): Promise<ExportedCheckpoint> {
  checkOptions('exportCheckpoint', options);
  const { runFolder, folder, checkpoint = 'latest' } = options;
  checkFolder(runFolder, 'runFolder');
  checkFolder(folder, 'folder');
  await checkModelFolder(folder);
  const damaged: { folder: string; message: string }[] = [];
  const stored = await find(runFolder, checkpoint, ({ folder: of, error }) => {
    damaged.push({ folder: of, message: error.message });
  });
  const record = await readHeldOutRecord(runFolder);
  if (!record)
    throw new FileError(`${join(runFolder, heldOutName)} is missing: expected it beside the checkpoints`);
  const config = parseTrainingConfig(configOf(stored), stored.folder);
  const trained: StateVector = stored.groups.includes('average') ? 'average' : 'values';
  const groups = [trained, ...stored.groups.filter((group) => group === fixedGroup)];
  const files: FileHandle[] = [];
  try {
    const weights: ExportedWeight[] = [];
    for (const group of groups) {
      const file = await open(stored.path(group), 'r');
      files.push(file);
      weights.push(...(await weightsOf(stored, group, file)));
    }
    const decoders = decodersOf(config);
    await checkNoOtherDecoders(folder, decoders);
    await removeTemporaryFiles(folder, true);
    await exportModel(folder, config.encoder, decoders, inPublishedOrder(weights, config.encoder), record);
  } finally {
    for (const file of files) await file.close();
  }
  return { step: stored.step, heldOutLoss: stored.heldOutLoss, damaged };
}
