import {
  native,
  type NativeCancellation,
  type NativeDevice,
  type NativePlan,
  type NativeTensor,
  type NativeWeights,
  type StepProfile,
  type TensorType,
} from '../bindings.js';
import { ArgumentError, DeviceError, DisposedError, OmniIdError, WeightsError } from '../errors.js';
import type { Graph } from './graph.js';

/** Turns an error of the addon into the package's class of the same code. */
export function typed(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof OmniIdError || !('code' in error)) return error;
  const { code, message } = error;
  const options = { cause: error };
  switch (code) {
    case 'ERR_INVALID_ARGUMENT':
      return new ArgumentError(message, options);
    case 'ERR_WEIGHTS':
      return new WeightsError(message);
    case 'ERR_DISPOSED':
      return new DisposedError(message);
    case 'ERR_OUT_OF_MEMORY':
    case 'ERR_DEVICE':
    case 'ERR_DEVICE_UNAVAILABLE':
      return new DeviceError(code, message, options);
    default:
      return typeof code === 'string' && code.startsWith('ERR_')
        ? new OmniIdError(code, message, options)
        : error;
  }
}

/** Runs `body`, with the addon's errors as the package's. */
export function translated<T>(body: () => T): T {
  try {
    return body();
  } catch (error) {
    throw typed(error);
  }
}

/** A piece of a tensor that a run reads or writes: from this element on. */
export interface Place {
  readonly tensor: NativeTensor;
  readonly element: number;
}

/**
 * Gives a plan's memory back without waiting for the garbage collector, which knows nothing of the packed weights that a plan holds. Runs under way
 * hold the plan themselves.
 */
function disposeWhenCompiled(plan: Promise<NativePlan>): void {
  plan.then(
    (compiled) => {
      compiled.dispose();
    },
    () => undefined, // whoever asked for it is told
  );
}

/** How many plans a session keeps. A plan is small (no weights, no activations of its own); this bounds what odd shapes leave behind. */
const mostPlans = 64;

/**
 * A device, the weights of one model, and the plans compiled so far: one for each shape, the least recently used given up first. Runs queue
 * in the order in which they were asked for.
 */
export class Session {
  readonly #plans = new Map<string, Promise<NativePlan>>();
  /** Given the steps of every run while it is set; runs are not timed without. */
  onProfile: ((steps: readonly StepProfile[]) => void) | undefined;

  constructor(
    readonly device: NativeDevice,
    readonly weights: NativeWeights,
  ) {}

  /** Memory on the device, not initialised. */
  tensor(type: TensorType): NativeTensor {
    return translated(() => new (native().Tensor)(this.device, type));
  }

  /** The plan of this key, compiled from `build()` when there is none. */
  async plan(key: string, build: () => Graph): Promise<NativePlan> {
    let plan = this.#plans.get(key);
    if (plan) {
      this.#plans.delete(key);
    } else {
      // Compiling is never cancelled: what it packs serves every later call, and another may be waiting for the same plan.
      plan = translated(() =>
        native().compile(this.device, this.weights, build().toNative(), new (native().Cancellation)()),
      );
      const mine = plan;
      plan.catch(() => {
        if (this.#plans.get(key) === mine) this.#plans.delete(key);
      });
    }
    this.#plans.set(key, plan);
    if (this.#plans.size > mostPlans) {
      const [oldest] = this.#plans;
      if (oldest) {
        this.#plans.delete(oldest[0]);
        disposeWhenCompiled(oldest[1]);
      }
    }
    return await plan.catch((error: unknown) => {
      throw typed(error);
    });
  }

  /**
   * Runs a plan.
   * @throws the signal's reason when it is aborted: between operators, or before the run begins
   */
  async run(plan: NativePlan, places: Record<string, Place>, signal?: AbortSignal): Promise<void> {
    await this.cancellable(signal, async (cancellation) => {
      if (this.onProfile) this.onProfile(await plan.profile(places, cancellation));
      else await plan.run(places, cancellation);
    });
  }

  /** Awaits a job of the engine, cancelling it when the signal is aborted. */
  async cancellable(
    signal: AbortSignal | undefined,
    start: (cancellation: NativeCancellation) => Promise<void>,
  ): Promise<void> {
    signal?.throwIfAborted();
    const cancellation = new (native().Cancellation)();
    const cancel = (): void => {
      cancellation.cancel();
    };
    signal?.addEventListener('abort', cancel, { once: true });
    try {
      await start(cancellation);
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ERR_ABORTED') signal?.throwIfAborted();
      throw typed(error);
    } finally {
      signal?.removeEventListener('abort', cancel);
    }
  }

  /** Gives all native memory back, as soon as what is running has ended. */
  dispose(): void {
    for (const plan of this.#plans.values()) disposeWhenCompiled(plan);
    this.#plans.clear();
    this.weights.dispose();
  }
}
