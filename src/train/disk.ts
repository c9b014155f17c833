import { statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { FileError } from '../errors.js';
import { exists } from '../io/files.js';
import { gigabytes } from '../text.js';
import type { MemoryNeeds } from './memory.js';

/** Checkpoints that a run keeps, and how many it has. */
export interface KeptCheckpoints {
  readonly keepLast: number;
  readonly best: boolean;
  readonly stored: number;
}

/** Bytes that a run will still write: its checkpoints, with the one that is there before an old one is removed, and the model. */
export function diskNeeds(
  { parameters, checkpoint }: Pick<MemoryNeeds, 'parameters' | 'checkpoint'>,
  { keepLast, best, stored }: KeptCheckpoints,
): number {
  const most = keepLast + (best ? 1 : 0);
  return (Math.max(most - stored, 0) + 1) * checkpoint + 4 * parameters;
}

/** Bytes that may still be written at a path, of which the last folders need not be there. */
async function freeBytes(path: string): Promise<number> {
  let folder = path;
  while (!(await exists(folder)) && dirname(folder) !== folder) folder = dirname(folder);
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}

/**
 * Checks that the disk can hold what a run will write, photos that are rendered apart.
 * @param bytes see {@link diskNeeds}
 * @throws {FileError} `ERR_FILE`
 */
export async function checkDisk(runFolder: string, bytes: number, free?: number): Promise<void> {
  const available = free ?? (await freeBytes(runFolder));
  if (bytes <= available) return;
  throw new FileError(
    `the checkpoints and the model of this run need ${gigabytes(bytes)} in ${runFolder}, ${gigabytes(available)} are free: expected a smaller checkpoints.keepLast, or another disk`,
  );
}
