import { SingleBar } from 'cli-progress';
import { ArgumentError, InterruptedError } from '../errors.js';
import { exists, isSameFile } from '../io/files.js';
import { duration, type ConsoleStream } from '../train/console.js';

/** Exit codes, for scripts. */
export const exitCodes = {
  ok: 0,
  /** The command failed, or some photos could not be used. */
  failed: 1,
  /** The command line makes no sense. */
  usage: 2,
  /** Interrupted by Ctrl-C. */
  interrupted: 130,
} as const;

/** A progress bar on stderr when that is a terminal; nothing in a pipe. */
export function progressBar(
  what: string,
  stream: ConsoleStream = process.stderr,
): { update(done: number, total: number): void; stop(): void } {
  if (stream.isTTY !== true) return { update: () => undefined, stop: () => undefined };
  const bar = new SingleBar({
    format: `${what} {bar} {percentage}% | {value}/{total} | {eta_formatted} left`,
    stream,
    // As long as there is no estimate, cli-progress has words for it instead of seconds.
    formatTime: duration,
    hideCursor: true,
    clearOnComplete: true,
  });
  let started = false;
  return {
    update: (done, total) => {
      if (!started) bar.start(total, done);
      started = true;
      bar.update(done);
    },
    stop: () => {
      if (started) bar.stop();
    },
  };
}

/** A signal that Ctrl-C aborts. A second Ctrl-C ends the process at once. */
export function interruptSignal(): AbortSignal {
  const controller = new AbortController();
  process.once('SIGINT', () => {
    controller.abort(new InterruptedError('SIGINT', 'interrupted'));
    process.once('SIGINT', () => process.exit(exitCodes.interrupted));
  });
  return controller.signal;
}

/**
 * Checks that what is written is none of the files that are read.
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`
 */
export async function checkNotRead(out: string, read: readonly string[]): Promise<void> {
  if (!(await exists(out))) return;
  for (const path of read) {
    if (await isSameFile(out, path))
      throw new ArgumentError(`--out ${out}: this is ${path}, which is read: expected another file`);
  }
}

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}

export function warn(message: string): void {
  process.stderr.write(`omni-id: ${message}\n`);
}
