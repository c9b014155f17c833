import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { FileError, FormatError, messageOf, OmniIdError } from '../errors.js';
import { exists, isSystemError, makeFolder } from '../io/files.js';
import {
  StoredCheckpoint,
  writeCheckpoint,
  type CheckpointContent,
  type SaveCheckpointOptions,
} from './checkpoint_folder.js';
import { checkpointsName } from './run_folder.js';
import { RunLock } from './run_lock.js';

/**
 * The checkpoints of a run: `checkpoints/step-00001000/` and so on. Each is written under a temporary name, synced, and renamed, so that
 * one with its proper name is always whole, whenever the process or the machine dies; what can still go wrong (a damaged disk, a file that was cut) is found
 * by checksums.
 */

/** A checkpoint that was passed over, and why. */
export interface DamagedCheckpoint {
  readonly folder: string;
  readonly error: OmniIdError;
}

const folderName = checkpointsName;
const finalName = (step: number): string => `step-${String(step).padStart(8, '0')}`;
const stepOf = (name: string): number => Number(/^step-(\d{8,})$/.exec(name)?.[1] ?? NaN);
/** Unfinished or deleted: removed at the next start. */
const temporaryName = (step: number): string =>
  `.${finalName(step)}.${process.pid}.${randomBytes(6).toString('hex')}.tmp`;
/** Stands aside while another takes its name: put back at the next start when that did not come to an end. */
const replacedName = (name: string): string => `.${name}.replaced`;

/** Calls of the file system, with errors of the package. */
async function filing<T>(what: string, body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (error instanceof Error && 'syscall' in error)
      throw new FileError(`cannot ${what}: ${error.message}`, { cause: error });
    throw error;
  }
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  await folder.sync().finally(() => folder.close());
}

/** Names of a run's checkpoints, the last one first; empty when there are none. */
async function checkpointNames(runFolder: string): Promise<string[]> {
  const names = await readdir(join(runFolder, folderName)).catch((error: unknown): string[] => {
    if (isSystemError(error, 'ENOENT')) return [];
    throw new FileError(`cannot read ${runFolder}: ${messageOf(error)}`, { cause: error });
  });
  return names.filter((name) => stepOf(name) >= 0).sort((a, b) => stepOf(b) - stepOf(a));
}

/** A checkpoint, every byte of it checked. */
async function whole(runFolder: string, name: string): Promise<StoredCheckpoint> {
  const checkpoint = await StoredCheckpoint.open(join(runFolder, folderName, name));
  await checkpoint.verify();
  return checkpoint;
}

/** The first of these that is whole. */
async function firstWhole(
  runFolder: string,
  names: readonly string[],
  onDamaged: ((damaged: DamagedCheckpoint) => void) | undefined,
): Promise<StoredCheckpoint | undefined> {
  let last: DamagedCheckpoint | undefined;
  for (const name of names) {
    try {
      return await whole(runFolder, name);
    } catch (error) {
      if (!(error instanceof OmniIdError)) throw error;
      last = { folder: join(runFolder, folderName, name), error };
      onDamaged?.(last);
    }
  }
  if (last)
    throw new FormatError(`none of the checkpoints in ${runFolder} can be used: ${last.error.message}`);
  return undefined;
}

/**
 * The last checkpoint of a run that is whole, every byte of it checked.
 * @param onDamaged told of each that was passed over
 * @returns undefined when the run has none
 * @throws {FormatError} `ERR_FORMAT` when all of them are damaged; {FileError} `ERR_FILE`
 */
export async function latestCheckpoint(
  runFolder: string,
  onDamaged?: (damaged: DamagedCheckpoint) => void,
): Promise<StoredCheckpoint | undefined> {
  return firstWhole(runFolder, await checkpointNames(runFolder), onDamaged);
}

/** Steps of a run's checkpoints, the last one first; empty when there are none. @throws {FileError} `ERR_FILE` */
export async function checkpointSteps(runFolder: string): Promise<number[]> {
  return (await checkpointNames(runFolder)).map(stepOf);
}

/**
 * The checkpoint of a step, every byte of it checked; undefined when there is none.
 * @throws {FormatError} `ERR_FORMAT` when it is damaged; {FileError} `ERR_FILE`
 */
export async function checkpointOfStep(
  runFolder: string,
  step: number,
): Promise<StoredCheckpoint | undefined> {
  const name = (await checkpointNames(runFolder)).find((one) => stepOf(one) === step);
  return name === undefined ? undefined : whole(runFolder, name);
}

async function byHeldOutLoss(runFolder: string): Promise<string[]> {
  const losses: [name: string, loss: number][] = [];
  for (const name of await checkpointNames(runFolder)) {
    const stored = await StoredCheckpoint.open(join(runFolder, folderName, name)).catch(() => undefined);
    if (stored?.heldOutLoss !== undefined) losses.push([name, stored.heldOutLoss]);
  }
  return losses.sort(([, a], [, b]) => a - b).map(([name]) => name);
}

/**
 * The checkpoint with the lowest held-out loss that is whole. Otherwise like {@link latestCheckpoint}; undefined also when no loss was measured.
 */
export async function bestCheckpoint(
  runFolder: string,
  onDamaged?: (damaged: DamagedCheckpoint) => void,
): Promise<StoredCheckpoint | undefined> {
  return firstWhole(runFolder, await byHeldOutLoss(runFolder), onDamaged);
}

/** A run's folder, held by this process to save checkpoints in. */
export class Checkpoints implements AsyncDisposable {
  private constructor(
    readonly runFolder: string,
    private readonly lock: RunLock,
    private readonly keep: { readonly keepLast: number; readonly best: boolean },
  ) {}

  /**
   * Takes a run's folder, which is made where there is none, and removes what a killed process left in it.
   * @param keep how many of the last checkpoints are kept, and whether the best one is too
   * @throws {FileError} `ERR_FILE` when another process trains there, or it cannot be written
   */
  static async open(
    runFolder: string,
    keep: { readonly keepLast: number; readonly best: boolean },
  ): Promise<Checkpoints> {
    const folder = join(runFolder, folderName);
    await makeFolder(folder);
    const lock = await RunLock.take(runFolder);
    try {
      await filing(`clean ${folder}`, () => removeLeftovers(folder));
    } catch (error) {
      await lock.release();
      throw error;
    }
    return new Checkpoints(runFolder, lock, keep);
  }

  /** See {@link latestCheckpoint}. */
  latest(onDamaged?: (damaged: DamagedCheckpoint) => void): Promise<StoredCheckpoint | undefined> {
    return latestCheckpoint(this.runFolder, onDamaged);
  }

  /**
   * Saves a checkpoint, then removes those that are not to be kept, among them any of a later step: a run goes on from its last good
   * checkpoint, so that they are damaged. Tensors must not change, and no other save run, until it is done. Peak memory: 16 MiB.
   *
   * Whatever fails, earlier checkpoints stay as they are and nothing is left behind.
   * @returns the checkpoint's folder
   * @throws {NumericError} `ERR_NOT_FINITE` naming a tensor with a value that is not finite; {FileError} `ERR_FILE`, as when the disk is full;
   *   the signal's reason when aborted
   */
  async save(content: CheckpointContent, options: SaveCheckpointOptions = {}): Promise<string> {
    const folder = join(this.runFolder, folderName);
    const name = finalName(content.step);
    const temporary = join(folder, temporaryName(content.step));
    const final = join(folder, name);
    await filing(`save ${final}`, async () => {
      try {
        await mkdir(temporary);
        await writeCheckpoint(temporary, content, options);
        await putInPlace(temporary, folder, name);
        await syncFolder(folder);
      } catch (error) {
        await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
        throw error;
      }
    });
    await filing(`remove old checkpoints of ${folder}`, () => this.#prune(content.step));
    return final;
  }

  async #prune(step: number): Promise<void> {
    const names = await checkpointNames(this.runFolder);
    const current = names.filter((name) => stepOf(name) <= step);
    const kept = new Set(current.slice(0, this.keep.keepLast));
    if (this.keep.best) {
      const best = (await byHeldOutLoss(this.runFolder)).find((name) => stepOf(name) <= step);
      if (best !== undefined) kept.add(best);
    }
    for (const name of names) {
      if (kept.has(name)) continue;
      // Renamed first: a folder with its proper name is never half removed.
      const aside = join(this.runFolder, folderName, temporaryName(stepOf(name)));
      await rename(join(this.runFolder, folderName, name), aside);
      await rm(aside, { recursive: true });
    }
  }

  /** Gives the folder back. */
  close(): Promise<void> {
    return this.lock.release();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Renames a finished checkpoint. One of that name stands aside meanwhile: folders cannot be exchanged in one call. */
async function putInPlace(temporary: string, folder: string, name: string): Promise<void> {
  const final = join(folder, name);
  if (!(await exists(final))) return rename(temporary, final);
  const aside = join(folder, replacedName(name));
  await rename(final, aside);
  await rename(temporary, final).catch(async (error: unknown) => {
    await rename(aside, final);
    throw error;
  });
  await rm(aside, { recursive: true });
}

async function removeLeftovers(folder: string): Promise<void> {
  const names = await readdir(folder);
  for (const name of names.filter((hidden) => hidden.startsWith('.step-'))) {
    const path = join(folder, name);
    const original = name.endsWith('.replaced') ? name.slice(1, -'.replaced'.length) : undefined;
    if (original !== undefined && !names.includes(original)) await rename(path, join(folder, original));
    else if (original !== undefined || name.endsWith('.tmp')) await rm(path, { recursive: true });
  }
}
