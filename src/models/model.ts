import { setMaxListeners } from 'node:events';
import { ArgumentError, DisposedError, FileError } from '../errors.js';
import { native, type StepProfile } from '../bindings.js';
import { openDevice, type DeviceOptions } from '../graph/devices.js';
import { Session, typed } from '../graph/session.js';
import { registerWeights, type StoredTensor } from '../io/checkpoint.js';
import { mapPackedCache, packedCachePath, writePackedCache } from '../io/packed_cache.js';

/** Type of weights and matrix products. `bf16` halves memory and doubles speed; sums, norms and softmax stay f32. */
export type ComputeDType = 'f32' | 'bf16';

export interface ComputeOptions extends DeviceOptions {
  /** Default: `'bf16'`. */
  dtype?: ComputeDType | undefined;
}

export interface LoadOptions extends ComputeOptions {
  /**
   * The packed cache of a folder: its weights as the kernels read them, mapped at start instead of converted. `'use'` (default) takes one that
   * is there, and silently writes it anew when the weights, the config or the package have changed; `'write'` also makes one where there is
   * none, and fails when it cannot; `'ignore'` does neither. A bf16 cache takes 2 bytes a parameter on disk. It is the CPU's layout: on a CUDA
   * device, whose kernels read the weights as they are published, `'use'` does nothing and `'write'` is an error.
   */
  packedCache?: 'use' | 'write' | 'ignore' | undefined;
  /**
   * Stops loading: between its steps, and between pieces of a packed cache. The call rejects with the signal's reason, and no cache is left
   * half written.
   */
  signal?: AbortSignal | undefined;
}

/**
 * Gives a session the weights of a folder, and its plans their packed form.
 * @param source what of the folder's checkpoint the model reads
 * @param config what the layout of the weights depends on besides them
 * @param pack compiles the plans that read every weight
 * @throws {FileError} `ERR_FILE` when `packedCache` is `'write'` and the cache cannot be written; {ArgumentError} `ERR_INVALID_ARGUMENT` when it
 *   is `'write'` on a device that has no use for one; the signal's reason when aborted
 */
export async function loadWeights(
  session: Session,
  folder: string,
  source: ReadonlyMap<string, StoredTensor>,
  config: unknown,
  { dtype = 'bf16', packedCache = 'use', signal }: LoadOptions,
  pack: () => Promise<void>,
): Promise<void> {
  signal?.throwIfAborted();
  const { kind } = session.device.describe();
  if (kind !== 'cpu' && packedCache === 'write') {
    throw new ArgumentError(
      `packedCache "write" makes a cache of the weights as the CPU's kernels read them, and the device is ${JSON.stringify(kind)}: use device "cpu", or packedCache "use" or "ignore"`,
    );
  }
  registerWeights(session.weights, source);
  // What lies in another device's memory is no file's, and what the CPU's cache holds is of no use there.
  if (packedCache === 'ignore' || kind !== 'cpu') {
    await pack();
    signal?.throwIfAborted();
    return;
  }
  const path = packedCachePath(folder, dtype);
  const state = await mapPackedCache(path, session.weights, config, source, signal);
  signal?.throwIfAborted();
  await pack();
  signal?.throwIfAborted();
  if (state === 'used' || (state === 'absent' && packedCache === 'use')) return;
  await writePackedCache(path, session.weights, config, source, { signal }).catch((error: unknown) => {
    if (packedCache === 'write' || !(error instanceof FileError)) throw error;
  });
}

/** Memory and place of a model. Bytes. */
export interface ModelInfo {
  /** Kind of device: `'cpu'` or `'cuda'`. */
  readonly device: string;
  /** The kernels in use: `'avx512bf16'`, `'avx512'`, `'avx2'`, `'neonbf16'`, `'neon'` or `'portable'`; `'sm_90'` for a CUDA device of compute capability 9.0. */
  readonly instructionSet: string;
  /** Threads that the device computes with; models that ask for the same number share them. */
  readonly threads: number;
  readonly dtype: ComputeDType;
  /** Memory that the device holds now and held at most: activations, scratch, inputs and outputs; of a CUDA device the weights too. */
  readonly deviceBytes: { readonly current: number; readonly peak: number };
  /** Weights in the layout of the CPU's kernels. */
  readonly packedWeightBytes: number;
}

/**
 * What all models share: a session, a queue in which calls wait for each other, and the end of their life. A call that is under way when the
 * model is disposed of is cancelled and rejects with `ERR_DISPOSED`.
 */
export abstract class Model implements Disposable, AsyncDisposable {
  readonly #session: Session;
  readonly #ending = new AbortController();
  #last: Promise<unknown> = Promise.resolve();
  /** Type of weights and matrix products. */
  readonly dtype: ComputeDType;

  /** @internal */
  protected constructor(session: Session, dtype: ComputeDType) {
    this.#session = session;
    this.dtype = dtype;
    // Every call listens; there may be any number of them.
    setMaxListeners(0, this.#ending.signal);
  }

  /** @internal */
  protected get session(): Session {
    this.#checkAlive();
    return this.#session;
  }

  /** Where the model runs and what it holds. */
  get info(): ModelInfo {
    const { kind, instructionSet, threads } = this.session.device.describe();
    const { currentBytes, peakBytes } = this.session.device.memory();
    return {
      device: kind,
      instructionSet,
      threads,
      dtype: this.dtype,
      deviceBytes: { current: currentBytes, peak: peakBytes },
      packedWeightBytes: this.session.weights.packed().reduce((sum, { byteLength }) => sum + byteLength, 0),
    };
  }

  /**
   * Runs `body`, which calls this model, with every operator timed.
   * @returns what `body` returned, and the steps of all plans that ran meanwhile, in order: operator, types, seconds, flops, bytes
   * @throws what `body` throws
   */
  async profile<T>(body: () => Promise<T>): Promise<{ result: T; steps: readonly StepProfile[] }> {
    const steps: StepProfile[] = [];
    this.session.onProfile = (more) => void steps.push(...more);
    try {
      return { result: await body(), steps };
    } finally {
      this.#session.onProfile = undefined;
    }
  }

  /**
   * Runs `body` after all calls before it. Its signal is the caller's and the model's end in one.
   * @internal
   */
  protected async enqueue<T>(
    signal: AbortSignal | undefined,
    body: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    this.#checkAlive();
    signal?.throwIfAborted();
    const both = AbortSignal.any(signal ? [signal, this.#ending.signal] : [this.#ending.signal]);
    const before = this.#last;
    const mine = before.then(() => {
      both.throwIfAborted();
      return body(both).catch((error: unknown) => {
        // What was disposed of during the call is missing somewhere; why is what the caller should hear.
        this.#ending.signal.throwIfAborted();
        throw typed(error);
      });
    });
    this.#last = mine.catch(() => undefined);
    // A call that is still waiting when it is aborted does not wait for its turn; one that runs ends by itself.
    let started = false;
    void before.then(() => (started = true));
    return await new Promise<T>((resolve, reject) => {
      const abort = (): void => {
        if (!started) reject(both.reason as Error);
      };
      both.addEventListener('abort', abort, { once: true });
      mine.then(resolve, reject).finally(() => {
        both.removeEventListener('abort', abort);
      });
    });
  }

  #checkAlive(): void {
    if (this.#ending.signal.aborted) throw new DisposedError('the model was used after dispose()');
  }

  /** Gives all native memory back. Calls under way are cancelled. Calling it again does nothing. */
  dispose(): void {
    if (this.#ending.signal.aborted) return;
    this.#ending.abort(new DisposedError('the model was disposed of during the call'));
    this.#session.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Disposes, and waits for what was under way to end. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
    await this.#last;
  }
}

/**
 * A new session on a device, without weights.
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`; {DeviceError} `ERR_DEVICE_UNAVAILABLE`
 */
export function newSession(options: DeviceOptions): Session {
  return new Session(openDevice(options), new (native().Weights)());
}
