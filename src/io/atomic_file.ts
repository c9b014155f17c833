import { randomBytes } from 'node:crypto';
import { open, readdir, rename, rm, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { FileError, messageOf } from '../errors.js';
import { isSystemError } from './files.js';

/**
 * Writes a file that is either whole or not there: `write` fills a temporary file beside it, which is synced and renamed into place,
 * and the folder synced. Whatever fails, the temporary file is removed and an older file of that name stays as it was.
 * (`write-file-atomic` wants the whole content in memory; weights are streamed.)
 *
 * @throws {FileError} `ERR_FILE` naming the path and the system's reason
 */
export async function writeFileAtomically(
  path: string,
  write: (file: FileHandle) => Promise<void>,
): Promise<void> {
  const temporary = join(
    dirname(path),
    `.${basename(path)}.${process.pid}.${randomBytes(6).toString('hex')}.tmp`,
  );
  let file: FileHandle | undefined;
  try {
    file = await open(temporary, 'wx');
    await write(file);
    await file.sync();
    await file.close();
    file = undefined;
    await rename(temporary, path);
    const folder = await open(dirname(path), 'r');
    await folder.sync().finally(() => folder.close());
  } catch (error) {
    await file?.close().catch(() => undefined);
    await rm(temporary, { force: true }).catch(() => undefined);
    if (error instanceof Error && 'syscall' in error) {
      throw new FileError(`cannot write ${path}: ${error.message}`, { cause: error });
    }
    throw error;
  }
}

/** What {@link writeFileAtomically} calls its temporary files. */
const temporary = /^\..+\.\d+\.[0-9a-f]{12}\.tmp$/;

/**
 * Removes the temporary files that killed processes have left in a folder. Only for folders that nobody else writes to.
 * @param recursive whether folders inside are cleaned too
 * @throws {FileError} `ERR_FILE`
 */
export async function removeTemporaryFiles(folder: string, recursive: boolean): Promise<void> {
  try {
    for (const entry of await readdir(folder, { recursive, withFileTypes: true }))
      if (entry.isFile() && temporary.test(entry.name))
        await rm(join(entry.parentPath, entry.name), { force: true });
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return;
    throw new FileError(`cannot clean ${folder}: ${messageOf(error)}`, { cause: error });
  }
}
