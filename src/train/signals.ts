import { constants } from 'node:os';

const signals = ['SIGINT', 'SIGTERM'] as const;

/** A signal that asks to stop. */
export type StopSignal = (typeof signals)[number];

/** The exit code of a program that a signal ended, as shells have it: 130 and 143. */
export function exitCodeOf(signal: StopSignal): number {
  return 128 + constants.signals[signal];
}

/**
 * Ctrl-C and SIGTERM during training: the first lets the step be finished and a checkpoint be saved, the second ends the process at once. Checkpoints are safe
 * at any moment.
 */
export class StopSignals implements Disposable {
  #received: StopSignal | undefined;
  readonly #handlers = signals.map((signal) => [signal, () => { this.#receive(signal); }] as const); // prettier-ignore
  readonly #onStop: ((signal: StopSignal) => void) | undefined;

  /** @param onStop called at the first signal: to say that training will stop */
  constructor(onStop?: (signal: StopSignal) => void) {
    this.#onStop = onStop;
    for (const [signal, handler] of this.#handlers) process.on(signal, handler);
  }

  /** The signal that asked to stop, when there was one: to be looked at after every step. */
  get received(): StopSignal | undefined {
    return this.#received;
  }

  #receive(signal: StopSignal): void {
    if (this.#received !== undefined) process.exit(exitCodeOf(signal));
    this.#received = signal;
    this.#onStop?.(signal);
  }

  /** From here on signals do what they did before. */
  dispose(): void {
    for (const [signal, handler] of this.#handlers) process.off(signal, handler);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
