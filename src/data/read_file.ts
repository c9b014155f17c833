import { setTimeout } from 'node:timers/promises';
import { FileError, ImageError, messageOf } from '../errors.js';

/** Errors of the system that may be over at the next attempt: too many open files, a disk or a file server that stutters. */
const transient: ReadonlySet<string> = new Set([
  'EAGAIN', 'EBUSY', 'EINTR', 'EIO', 'EMFILE', 'ENFILE', 'ENOMEM', 'ESTALE', 'ETIMEDOUT',
]); // prettier-ignore
/** Milliseconds before the next attempts. */
const pauses = [20, 100, 500];

/** The code of the system's error that is behind an error; undefined when there is none. */
function systemCode(error: unknown): string | undefined {
  const cause = error instanceof ImageError ? error.cause : error;
  if (!(cause instanceof Error) || !('syscall' in cause) || !('code' in cause)) return undefined;
  return String(cause.code);
}

/**
 * Reads a photo's file for training. What is wrong with the file (it is gone, or cut off) is the photo's fault, which is left out then, in every run alike.
 * An error of the system is not: a run that was resumed would leave out others. It is tried again, and ends the work when it stays.
 * @param name for messages
 * @throws {FileError} `ERR_FILE` for errors of the system other than a missing file; what `body` throws
 */
export async function readPhotoFile<T>(name: string, body: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await body();
    } catch (error) {
      const code = systemCode(error);
      if (code === undefined || code === 'ENOENT' || code === 'ENOTDIR') throw error;
      const pause = pauses[attempt];
      if (pause === undefined || !transient.has(code)) {
        const attempts = attempt === 0 ? '' : `, ${attempt + 1} times`;
        const cause = error instanceof ImageError ? error.cause : error;
        throw new FileError(`cannot read ${name}${attempts}: ${messageOf(cause)}`, { cause });
      }
      await setTimeout(pause);
    }
  }
}
