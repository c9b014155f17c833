import { SingleBar } from 'cli-progress';

/** How training goes, after a step. */
export interface TrainingProgress {
  /** Steps that have been made. */
  readonly step: number;
  /** Steps of the whole run. */
  readonly steps: number;
  /** Smoothed over about fifty steps of this process; NaN while all of them were skipped. */
  readonly loss: number;
  /** Since the last line of the log, as is `dataWait`. */
  readonly identitiesPerSecond: number;
  /** Share of the time that the engine waited for data. */
  readonly dataWait: number;
  readonly learningRate: number;
}

/** 75 → 1m15s; 5,000 → 1h23m. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?';
  const whole = Math.max(0, Math.round(seconds));
  const two = (n: number): string => String(n).padStart(2, '0');
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86_400)}d${two(Math.floor((whole % 86_400) / 3600))}h`;
}

/** The longest time without a line, unless a single step takes longer. */
const quietSeconds = 20;

/** A stream that may be a terminal. */
export type ConsoleStream = NodeJS.WritableStream & { readonly isTTY?: boolean };

/** Tells people how training goes: a progress bar on a terminal, plain lines elsewhere. */
export class TrainingConsole {
  readonly #stream: ConsoleStream;
  readonly #bar: SingleBar | undefined;
  #preparation: SingleBar | undefined;
  readonly #now: () => number;
  readonly #steps: number;
  /** When the last line was written. */
  #said = -Infinity;
  #began: { step: number; seconds: number } | undefined;

  /**
   * @param options.steps of the whole run
   * @param options.stream default: stderr
   * @param options.now seconds, of any clock
   */
  constructor(options: { steps: number; stream?: ConsoleStream; now?: () => number }) {
    const { steps, stream = process.stderr, now = () => performance.now() / 1000 } = options;
    this.#steps = steps;
    this.#stream = stream;
    this.#now = now;
    if (stream.isTTY === true) {
      const format = '{bar} {percentage}% | step {value}/{total} | {facts} | {left} left';
      this.#bar = new SingleBar({ format, stream, barsize: 24, gracefulExit: false });
    }
  }

  /** Work before the first step, such as rendering a data set: how much of it is done. */
  preparing(what: string, done: number, total: number): void {
    if (this.#stream.isTTY !== true) {
      // A line at the beginning, for every tenth, and when there was none for long.
      if (done === total || (done * 10) % total < 10 || this.#isQuiet)
        this.#line(`${what}: ${done}/${total}`);
      return;
    }
    if (!this.#preparation) {
      const format = `${what} {bar} {percentage}% | {value}/{total} | {eta_formatted} left`;
      this.#preparation = new SingleBar({ format, stream: this.#stream, barsize: 24, gracefulExit: false, formatTime: duration }); // prettier-ignore
      this.#preparation.start(total, done);
    }
    this.#preparation.update(done);
  }

  /** The work before the first step is done. */
  prepared(): void {
    this.#preparation?.stop();
    this.#preparation = undefined;
  }

  /** Begins to count time, at the step that training goes on from. */
  start(step: number): void {
    this.#began = { step, seconds: this.#now() };
    this.#said = -Infinity;
    this.#bar?.start(this.#steps, step, { facts: 'starting', left: '?' });
  }

  /**
   * A step has been made. On a terminal the bar follows; elsewhere a line is written for the first one, when it is `due`, and when there was none
   * for long.
   */
  update(progress: TrainingProgress, due: boolean): void {
    if (!this.#bar && !due && !this.#isQuiet) return;
    const { step, loss, identitiesPerSecond, dataWait, learningRate } = progress;
    const { step: first, seconds: begin } = (this.#began ??= { step, seconds: this.#now() });
    const perStep = (this.#now() - begin) / (step - first);
    const left = duration(step > first ? perStep * (this.#steps - step) : NaN);
    const facts = [
      `loss ${loss.toPrecision(4)}`,
      `${identitiesPerSecond.toPrecision(3)} identities/s`,
      `data wait ${(100 * dataWait).toFixed(1)} %`,
    ].join(' | ');
    if (this.#bar) this.#bar.update(step, { facts, left });
    else {
      const rate = learningRate.toExponential(2);
      this.#line(`step ${step}/${this.#steps} | ${facts} | lr ${rate} | ${left} left`);
    }
  }

  /** Work between two steps, such as the loss of held-out people: how much of it is done. */
  between(what: string, done: number, total: number): void {
    const facts = `${what} ${done}/${total}`;
    if (this.#bar) this.#bar.update({ facts });
    else if (this.#isQuiet) this.#line(facts);
  }

  get #isQuiet(): boolean {
    return this.#now() - this.#said >= quietSeconds;
  }

  #line(text: string): void {
    this.#said = this.#now();
    this.#stream.write(`${text}\n`);
  }

  /** A line of its own, above the bar. */
  note(text: string): void {
    // The bar is drawn over; it comes again with the next update.
    const bar = this.#preparation ?? this.#bar;
    this.#stream.write(bar?.isActive === true ? `\r\u001b[K${text}\n` : `${text}\n`);
  }

  stop(): void {
    this.#bar?.stop();
  }
}
