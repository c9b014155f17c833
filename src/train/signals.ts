import { constants } from 'node:os';
import { InterruptedError } from '../errors.js';

const signals = ['SIGINT', 'SIGTERM'] as const;

/** A signal that asks to stop. */
export type StopSignal = (typeof signals)[number];

/** The exit code of a program that a signal ended, as shells have it: 130 and 143. */
export function exitCodeOf(signal: StopSignal): number {
  return 128 + constants.signals[signal];
}

/**
 * Ctrl-C and SIGTERM during training: the first lets the step be finished and a checkpoint be saved. The second stops a step between its operators, or else
 * ends the process at once, as a third does. Checkpoints are safe at any moment.
 */
export class StopSignals implements Disposable {
  #received: StopSignal | undefined;
  /** Work under way that a second signal stops. */
  #work: { readonly controller: AbortController; readonly message: string } | undefined;
  readonly #handlers = signals.map((signal) => [signal, () => { this.#receive(signal); }] as const); // prettier-ignore

  /** @param onStop called at the first signal: to say that training will stop */
  constructor(public onStop?: (signal: StopSignal) => void) {
    for (const [signal, handler] of this.#handlers) process.on(signal, handler);
  }

  /** The signal that asked to stop, when there was one: to be looked at after every step. */
  get received(): StopSignal | undefined {
    return this.#received;
  }

  /**
   * Work that may take long, one at a time: the second signal aborts it instead of ending the process.
   * @param message of the {@link InterruptedError} that is the reason then
   */
  async abortable<T>(message: string, body: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const work = { controller: new AbortController(), message };
    this.#work = work;
    try {
      return await body(work.controller.signal);
    } finally {
      this.#work = undefined;
    }
  }

  #receive(signal: StopSignal): void {
    if (this.#received === undefined) {
      this.#received = signal;
      this.onStop?.(signal);
      return;
    }
    if (!this.#work || this.#work.controller.signal.aborted) process.exit(exitCodeOf(signal));
    this.#work.controller.abort(new InterruptedError(signal, this.#work.message));
  }

  /** From here on signals do what they did before. */
  dispose(): void {
    for (const [signal, handler] of this.#handlers) process.off(signal, handler);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
