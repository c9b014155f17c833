import { createHash, randomBytes } from 'node:crypto';
import { link, readFile, rm, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { z } from 'zod';
import { FileError, messageOf } from '../errors.js';
import { isSystemError } from '../io/files.js';

/** Who holds a lock. A process is known by more than its number, which the system gives again: by when it started, in which boot. */
const holder = z.object({
  pid: z.number().int(),
  started: z.string(),
  boot: z.string(),
  host: z.string(),
  /** Tells two locks of one process apart. */
  nonce: z.string(),
});
type Holder = z.output<typeof holder>;

const name = 'train.lock';

/** When a process started, in ticks since boot (proc(5), field 22 of stat); undefined when there is none of this number, or it has ended. */
async function startOf(pid: number): Promise<string | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
  // The second field, the program's name, may hold spaces and brackets.
  const fields = text?.slice(text.lastIndexOf(')') + 2).split(' ');
  const ended = fields?.[0] === 'Z' || fields?.[0] === 'X';
  return ended ? undefined : fields?.[19];
}

async function bootOf(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => '')).trim();
}

function parse(text: string, path: string): Holder {
  try {
    return holder.parse(JSON.parse(text));
  } catch (cause) {
    throw new FileError(`${path} is not a lock of omni-id: if nothing runs there, remove it`, { cause });
  }
}

/** A file's text; undefined when there is none. */
async function readIfThere(path: string): Promise<string | undefined> {
  return readFile(path, 'utf8').catch((error: unknown) => {
    if (isSystemError(error, 'ENOENT')) return undefined;
    throw error;
  });
}

/**
 * The lock of a run's folder: a file that names the process that trains there. One that a killed process left is taken over; a lock of another
 * machine is not, as nothing here tells whether that process lives.
 */
export class RunLock implements AsyncDisposable {
  private constructor(
    readonly path: string,
    private readonly content: string,
  ) {}

  /** @throws {FileError} `ERR_FILE` when another process trains in the folder, or the lock cannot be written */
  static async take(folder: string): Promise<RunLock> {
    const path = join(folder, name);
    const self: Holder = {
      pid: process.pid,
      started: (await startOf(process.pid)) ?? '',
      boot: await bootOf(),
      host: hostname(),
      nonce: randomBytes(8).toString('hex'),
    };
    const own = `${path}.${self.nonce}`;
    try {
      await writeFile(own, `${JSON.stringify(self)}\n`, { flag: 'wx' });
      const lock = await RunLock.#tryTake(path, own, self);
      if (lock instanceof RunLock) return lock;
      throw new FileError(
        lock.host === self.host
          ? `process ${lock.pid} trains in ${folder}: expected a folder that no other run uses`
          : `process ${lock.pid} on ${lock.host} trains in ${folder}: if it does not run any more, remove ${path}`,
      );
    } catch (error) {
      if (error instanceof FileError) throw error;
      throw new FileError(`cannot lock ${folder}: ${messageOf(error)}`, { cause: error });
    } finally {
      await rm(own, { force: true }).catch(() => undefined);
    }
  }

  /** @returns the lock, or who holds it and may be alive */
  static async #tryTake(path: string, own: string, self: Holder): Promise<RunLock | Holder> {
    for (;;) {
      try {
        // Unlike opening with O_EXCL, a link brings the whole content at once: nobody reads half a lock.
        await link(own, path);
        return new RunLock(path, `${JSON.stringify(self)}\n`);
      } catch (error) {
        if (!isSystemError(error, 'EEXIST')) throw error;
      }
      const stale = await readIfThere(path);
      if (stale === undefined) continue; // given back in the meantime
      const held = parse(stale, path);
      const alive = held.boot === self.boot && (await startOf(held.pid)) === held.started;
      if (held.host !== self.host || alive) return held;
      // Of several that find the same stale lock, the one that holds a lock on it removes it. Otherwise a slow one could remove
      // what a quicker one has put there since.
      const hash = createHash('sha256').update(stale).digest('hex').slice(0, 16);
      const claim = await RunLock.#tryTake(`${path}.${hash}`, own, self);
      if (claim instanceof RunLock) {
        if ((await readIfThere(path)) === stale) await rm(path);
        await claim.release();
      } else if (claim.host !== self.host) {
        return claim;
      } else {
        await setTimeout(5);
      }
    }
  }

  /** Gives the lock back, unless somebody has taken it by hand. */
  async release(): Promise<void> {
    const there = await readIfThere(this.path).catch(() => undefined);
    if (there === this.content) await rm(this.path, { force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.release();
  }
}
