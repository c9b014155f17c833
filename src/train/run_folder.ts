import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { FileError, messageOf } from '../errors.js';
import { isRunConfig, readJson } from '../io/config.js';
import { exists, isSystemError } from '../io/files.js';
import { heldOutName } from '../io/held_out_record.js';

/** The configuration of a run, in its folder. */
export const configName = 'config.json';
/** The checkpoints of a run, in its folder: the first thing that is made there. */
export const checkpointsName = 'checkpoints';

/** Names that are told in a message. */
const namedAtMost = 3;

/** What a folder holds, for a message; undefined when that is nothing, hidden files apart. */
function contents(names: readonly string[]): string | undefined {
  const shown = names.filter((name) => !name.startsWith('.'));
  if (shown.length === 0) return undefined;
  return `${shown.slice(0, namedAtMost).join(', ')}${shown.length > namedAtMost ? ', …' : ''}`;
}

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
  if (resume)
    throw new FileError(
      `${runFolder} ${(await exists(runFolder)) ? 'holds no run' : 'is not there: expected the folder of a run'}`,
    );
  const foreign = contents(names);
  if (foreign === undefined) return;
  throw new FileError(`${runFolder} holds ${foreign} and no run: expected a new folder, or an empty one`);
}

/**
 * Checks that a model can be written into a folder: that it is new or empty, or holds one, which is replaced.
 * @throws {FileError} `ERR_FILE`
 */
export async function checkModelFolder(folder: string): Promise<void> {
  const names = await readdir(folder).catch((error: unknown): string[] => {
    if (isSystemError(error, 'ENOENT')) return [];
    throw new FileError(`${folder} cannot be the folder of a model: ${messageOf(error)}`, { cause: error });
  });
  const isRun = names.includes(checkpointsName);
  const foreign = contents(names);
  // Of a model that was not written to its end there may be no more than who was held out.
  const isModel = names.includes('model.safetensors') || foreign === heldOutName;
  if (isModel && !isRun) return;
  if (foreign === undefined) return;
  throw new FileError(
    `${folder} holds ${foreign} and ${isRun ? 'is the folder of a run' : 'no model'}: expected a new folder, an empty one, or that of a model`,
  );
}
