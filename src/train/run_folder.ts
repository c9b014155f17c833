import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { FileError, messageOf } from '../errors.js';
import { isRunConfig, readJson } from '../io/config.js';
import { exists, isSystemError } from '../io/files.js';

/** The configuration of a run, in its folder. */
export const configName = 'config.json';
/** The checkpoints of a run, in its folder: the first thing that is made there. */
export const checkpointsName = 'checkpoints';

/** Names that are told in a message. */
const namedAtMost = 3;

/** The configuration that a run was begun with, as JSON; undefined when the folder has none. @throws {FileError} `ERR_FILE`; {ConfigError} `ERR_CONFIG` */
export async function configOfRun(runFolder: string): Promise<unknown> {
  const path = join(runFolder, configName);
  return (await exists(path)) ? readJson(path) : undefined;
}

/**
 * Checks, before anything is written, that a folder can take a run, or has one to go on with. A folder of something else is not written into: a
 * model's `config.json` would be lost.
 * @throws {FileError} `ERR_FILE`
 */
export async function checkRunFolder(runFolder: string, resume: boolean): Promise<void> {
  const names = await readdir(runFolder).catch((error: unknown): string[] => {
    if (isSystemError(error, 'ENOENT')) return [];
    if (resume) return [];
    throw new FileError(`${runFolder} cannot be the folder of a run: ${messageOf(error)}`, { cause: error });
  });
  // A run that was killed before its first checkpoint is one too.
  const isRun =
    names.includes(checkpointsName) ||
    (names.includes(configName) && isRunConfig(await configOfRun(runFolder).catch(() => undefined)));
  if (isRun) return;
  if (resume) throw new FileError(`${runFolder} holds no run to go on with: begin one without --resume`);
  const foreign = names.filter((name) => !name.startsWith('.'));
  if (foreign.length === 0) return;
  const more = foreign.length > namedAtMost ? ', …' : '';
  throw new FileError(
    `${runFolder} holds ${foreign.slice(0, namedAtMost).join(', ')}${more} and no run: expected a new folder, or an empty one`,
  );
}
