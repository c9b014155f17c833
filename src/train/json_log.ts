import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { FileError, messageOf } from '../errors.js';

/** A line of the log: its step, what kind of line it is, and numbers. */
export interface LogEntry {
  /** Steps that have been made. */
  readonly step: number;
  readonly kind: string;
  readonly [field: string]: unknown;
}

function isEntry(value: unknown): value is LogEntry {
  return (
    typeof value === 'object' &&
    value !== null &&
    'step' in value &&
    typeof value.step === 'number' &&
    'kind' in value &&
    typeof value.kind === 'string'
  );
}

/** The entries of a log up to a step, and how many of its bytes hold them. */
function entriesUntil(bytes: Buffer, step: number): { entries: LogEntry[]; length: number } {
  const entries: LogEntry[] = [];
  let length = 0;
  for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10, length)) {
    let entry: unknown;
    try {
      entry = JSON.parse(bytes.toString('utf8', length, end)) as unknown;
    } catch {
      break;
    }
    if (!isEntry(entry) || entry.step > step) break;
    entries.push(entry);
    length = end + 1;
  }
  return { entries, length };
}

/**
 * The entries of a log, without a last line that was cut.
 * @throws {FileError} `ERR_FILE`
 */
export function readJsonLog(path: string): LogEntry[] {
  try {
    return entriesUntil(readFileSync(path), Infinity).entries;
  } catch (error) {
    throw new FileError(`cannot read ${path}: ${messageOf(error)}`, { cause: error });
  }
}

/**
 * A run's log as JSON lines. Each line is in the file when its call returns: what a killed process has logged is there. (A line is a few hundred bytes,
 * every few steps; calls that wait for it cost less than promises that nobody may forget.)
 */
export class JsonLog implements Disposable {
  #file: number | undefined;

  private constructor(
    readonly path: string,
    file: number,
    /** What the log holds, in order. */
    readonly entries: LogEntry[],
  ) {
    this.#file = file;
  }

  /**
   * Opens a log, and makes it when there is none. What it holds of steps after `step`, from a run that was killed after its last checkpoint,
   * is cut off, so that no step is in it twice.
   * @throws {FileError} `ERR_FILE`
   */
  static open(path: string, step: number): JsonLog {
    let file: number | undefined;
    try {
      file = openSync(path, 'a+');
      const { entries, length } = entriesUntil(readFileSync(path), step);
      ftruncateSync(file, length);
      return new JsonLog(path, file, entries);
    } catch (error) {
      if (file !== undefined) closeSync(file);
      throw new FileError(`cannot open ${path}: ${messageOf(error)}`, { cause: error });
    }
  }

  /**
   * Adds a line. Numbers that are not finite become null, as JSON has none.
   * @throws {FileError} `ERR_FILE`
   */
  write(entry: LogEntry): void {
    if (this.#file === undefined) return;
    const line = Buffer.from(`${JSON.stringify(entry)}\n`);
    try {
      for (let done = 0; done < line.length;) done += writeSync(this.#file, line, done);
    } catch (error) {
      throw new FileError(`cannot write ${this.path}: ${messageOf(error)}`, { cause: error });
    }
    this.entries.push(entry);
  }

  close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
    this.#file = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
