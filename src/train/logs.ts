import { join } from 'node:path';
import { EventFile, type EventImage } from './event_file.js';
import { JsonLog, type LogEntry } from './json_log.js';

/** A line's numbers. */
export type Scalars = Readonly<Record<string, number>>;

/**
 * The logs of a run: `log.jsonl`, and event files in `tensorboard/`. When a run is resumed, what they hold of later steps is cut off or hidden.
 */
export class TrainingLogs implements Disposable {
  private constructor(
    private readonly json: JsonLog,
    private readonly events: EventFile | undefined,
  ) {}

  /**
   * @param step that training goes on from: the checkpoint's, or 0
   * @throws {FileError} `ERR_FILE`
   */
  static open(runFolder: string, step: number, options: { readonly tensorboard: boolean }): TrainingLogs {
    const json = JsonLog.open(join(runFolder, 'log.jsonl'), step);
    try {
      const folder = join(runFolder, 'tensorboard');
      return new TrainingLogs(json, options.tensorboard ? EventFile.open(folder, step) : undefined);
    } catch (error) {
      json.close();
      throw error;
    }
  }

  /** All lines so far, those from before the run was resumed too. */
  get entries(): readonly LogEntry[] {
    return this.json.entries;
  }

  /**
   * Numbers of a step. In TensorBoard they are `kind/name`.
   * @param kind `train`, `held_out` or another word for what they are of
   * @throws {FileError} `ERR_FILE`
   */
  scalars(step: number, kind: string, values: Scalars): void {
    this.json.write({ step, kind, time: new Date().toISOString(), ...values });
    this.events?.scalars(
      step,
      Object.fromEntries(Object.entries(values).map(([name, value]) => [`${kind}/${name}`, value])),
    );
  }

  /** Something that happened at a step, in words: a checkpoint passed over, a step skipped. */
  event(step: number, kind: string, details: Readonly<Record<string, unknown>>): void {
    this.json.write({ step, kind, time: new Date().toISOString(), ...details });
  }

  /** A picture of a step, for TensorBoard. */
  image(step: number, tag: string, picture: EventImage): void {
    this.events?.image(step, tag, picture);
  }

  close(): void {
    this.json.close();
    this.events?.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
