import { access, constants, mkdir, readdir, stat, type FileHandle } from 'node:fs/promises';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { FileError, FormatError, messageOf } from '../errors.js';

/** Whether an error is the system's of this code, like ENOENT. */
export function isSystemError(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}

/** Whether there is anything at this path that can be reached. */
export function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

export function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (status) => status.isFile(),
    () => false,
  );
}

/** Whether a path is a folder's own or one inside of it, by their names. */
export function liesIn(path: string, folder: string): boolean {
  const [top] = relative(resolve(folder), resolve(path)).split(sep);
  return top !== '..';
}

/** Whether two paths lead to the same file or folder. */
export async function isSameFile(a: string, b: string): Promise<boolean> {
  const [one, other] = await Promise.all(
    [a, b].map((path) => stat(path, { bigint: true }).catch(() => undefined)),
  );
  return one?.ino !== undefined && one.ino === other?.ino && one.dev === other.dev;
}

export function isFolder(path: string): Promise<boolean> {
  return stat(path).then(
    (status) => status.isDirectory(),
    () => false,
  );
}

/** Paths of what lies in a folder; none when it cannot be listed. */
export async function filesIn(folder: string): Promise<string[]> {
  const names = await readdir(folder).catch((): string[] => []);
  return names.map((name) => join(folder, name));
}

/**
 * Makes a folder and those above it, where they are not there.
 * @throws {FileError} `ERR_FILE`
 */
export async function makeFolder(path: string): Promise<void> {
  // The current folder by another name, which nobody means.
  if (path === '') throw new FileError('cannot make a folder without a name: expected a path');
  // One by one: Node's recursive call never returns where the system says that a folder's parent is not there though it is, as in /proc.
  const missing: string[] = [];
  for (let at = resolve(path); !(await exists(at)) && at !== dirname(at); at = dirname(at)) missing.unshift(at); // prettier-ignore
  try {
    for (const folder of missing) {
      await mkdir(folder).catch((error: unknown) => {
        // Somebody else was quicker.
        if (!isSystemError(error, 'EEXIST')) throw error;
      });
    }
    if (!(await stat(path)).isDirectory()) throw new Error('there is a file of that name');
  } catch (error) {
    throw new FileError(`cannot make ${path}: ${messageOf(error)}`, { cause: error });
  }
}

/**
 * Whether a file can be written at this path, found out before minutes of work.
 * @param what begins the message
 * @throws {FileError} `ERR_FILE` when its folder cannot be written to, or it is a folder itself
 */
export async function checkWritable(path: string, what: string): Promise<void> {
  await access(dirname(resolve(path)), constants.W_OK).catch((error: unknown) => {
    throw new FileError(`${what}: ${messageOf(error)}`, { cause: error });
  });
  if (await isFolder(path)) throw new FileError(`${what}: this is a folder, expected a file to write`);
}

/**
 * Fills `bytes` with what a file has from `position` on.
 * @param name begins the message
 * @throws {FormatError} `ERR_FORMAT` when the file ends before
 */
export async function readFully(
  file: FileHandle,
  bytes: Uint8Array,
  position: number,
  name = 'the file',
): Promise<void> {
  for (let done = 0; done < bytes.byteLength;) {
    const { bytesRead } = await file.read(bytes, done, bytes.byteLength - done, position + done);
    if (bytesRead === 0) throw new FormatError(`${name} ends ${bytes.byteLength - done} bytes too early`);
    done += bytesRead;
  }
}

/** What tells one version of a file from another without reading it. Numbers of 64 bits, as text. */
export interface FileState {
  readonly inode: string;
  readonly bytes: string;
  readonly modifiedNs: string;
  /** Of the last change to content, name or times; unlike the time of modification, no program can set it. */
  readonly changedNs: string;
}

/** @throws {FileError} `ERR_FILE` */
export async function fileState(path: string): Promise<FileState> {
  const { ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true }).catch((error: unknown) => {
    throw new FileError(`cannot read ${path}: ${messageOf(error)}`, { cause: error });
  });
  return {
    inode: String(ino),
    bytes: String(size),
    modifiedNs: String(mtimeNs),
    changedNs: String(ctimeNs),
  };
}

export function isSameState(a: FileState, b: FileState): boolean {
  return (
    a.inode === b.inode && a.bytes === b.bytes && a.modifiedNs === b.modifiedNs && a.changedNs === b.changedNs
  );
}
