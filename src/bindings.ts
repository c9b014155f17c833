import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { AddonError, messageOf } from './errors.js';

/** Element types of the engine; `i32` for offsets and row numbers only. */
export type DType = 'f32' | 'bf16' | 'i32';

/** Element types in weight files. */
export type WeightDType = 'f32' | 'f16' | 'bf16';

/** A tensor's element type and dimensions. */
export interface TensorType {
  readonly dtype: DType;
  readonly shape: readonly number[];
}

export interface NativeDevice {
  describe(): { kind: string; instructionSet: string; threads: number };
  /** Bytes of buffers, arena and scratch; packed weights are counted by their `Weights`. */
  memory(): { currentBytes: number; peakBytes: number };
  /** What the device can do at most: flop/s, or bytes/s; the best of several rounds. 0 for what it has no instructions for. */
  measurePeak(what: 'f32' | 'bf16' | 'memoryRead', seconds: number): Promise<number>;
}

/** The CUDA devices, by number. */
export interface NativeCudaDevices {
  readonly devices: readonly {
    readonly name: string;
    readonly computeCapability: string;
    readonly multiprocessors: number;
    readonly memoryBytes: number;
    /** Why the engine cannot use it; empty when it can. */
    readonly reason: string;
  }[];
  /** None of them is there: their kernels are executed by the tests' emulation. */
  readonly emulated: boolean;
  /** Why there are none; empty when there are. */
  readonly reason: string;
}

export interface NativeTensor {
  /** Index of the first value that is not finite (nothing is written then), or −1. */
  write(values: Float32Array | Int32Array, firstElement: number): number;
  read(firstElement: number, count: number): Float32Array | Int32Array;
  dispose(): void;
}

export interface NativeMappedFile {
  readonly byteLength: number;
  /** A copy. */
  bytes(offset: number, length: number): Uint8Array;
  close(): void;
}

export interface NativeWeights {
  setMapped(
    name: string,
    type: { dtype: WeightDType; shape: readonly number[] },
    file: NativeMappedFile,
    offset: number,
  ): void;
  set(name: string, shape: readonly number[], values: Float32Array): void;
  /** A new tensor of normal numbers, made on the device's queue with all of its threads. Its values follow from seed, name (or `drawnAs`) and index alone. */
  setNormal(
    device: NativeDevice,
    name: string,
    shape: readonly number[],
    seed: number,
    mean: number,
    standardDeviation: number,
    cancellation: NativeCancellation,
    drawnAs?: string,
  ): Promise<void>;
  names(): string[];
  type(name: string): { dtype: WeightDType; shape: number[] };
  read(name: string, dtype: WeightDType, first: number, count: number): Uint8Array;
  packed(): { key: string; byteLength: number }[];
  readPacked(key: string, first: number, bytes: number): Uint8Array;
  setPacked(key: string, file: NativeMappedFile, offset: number, byteLength: number): void;
  dispose(): void;
}

export interface NativeCancellation {
  cancel(): void;
}

/** One step of a plan and the time that it took. */
export interface StepProfile {
  /** Name in the operator table. */
  readonly op: string;
  /** Inputs and weights that are there, in the order of the operator's row. */
  readonly inputs: readonly TensorType[];
  readonly outputs: readonly TensorType[];
  /** Attributes that are not at their default. */
  readonly attributes: Readonly<Record<string, number | string>>;
  readonly seconds: number;
  /** Multiplications and additions, by the operator table. */
  readonly flops: number;
  /** Inputs, weights and outputs, each read or written once. */
  readonly bytes: number;
}

export interface NativePlan {
  readonly arenaBytes: number;
  run(
    tensors: Record<string, { tensor: NativeTensor; element: number }>,
    cancellation: NativeCancellation,
  ): Promise<void>;
  /** A run with every step timed. */
  profile(
    tensors: Record<string, { tensor: NativeTensor; element: number }>,
    cancellation: NativeCancellation,
  ): Promise<StepProfile[]>;
  dispose(): void;
}

/** A graph as the engine takes it, in one call. */
export interface NativeGraph {
  values: (
    | { kind: 'input'; name: string; dtype: DType; shape: readonly number[] }
    | { kind: 'weight'; parts: readonly string[]; dtype: DType; shape: readonly number[] }
    | { kind: 'view'; source: number; column: number; dtype: DType; shape: readonly number[] }
    | { kind: 'join'; joined: readonly number[]; dtype: DType; shape: readonly number[] }
    | { kind: 'result'; dtype: DType; shape: readonly number[] }
  )[];
  nodes: {
    op: string;
    inputs: (number | null)[];
    outputs: number[];
    attributes: Record<string, number | string>;
  }[];
  outputs: { name: string; value: number }[];
}

export interface NativePreprocess {
  resize: number;
  crop: number;
  rescale: number;
  mean: readonly number[];
  std: readonly number[];
}

/** One case of the operator table, its inputs drawn from a seed of its own. */
export interface OperatorCase {
  readonly attributes: Readonly<Record<string, number | string>>;
  readonly inputs: readonly ({
    readonly name: string;
    readonly role: 'plain' | 'matrix' | 'index';
    readonly shape: readonly number[];
    readonly values: Float64Array;
  } | null)[];
}

/** An image that is asked for; seeds and numbers are whole. */
export interface NativeRenderRequest {
  shapeSeed: number;
  colouringSeed: number;
  viewSeed: number;
  viewNumber: number;
  size: number;
  crop: number;
  pose: { yaw: number; pitch: number; roll: number } | undefined;
  poseSpread: number;
  neutralExpression: boolean;
  jitter: boolean;
  glasses: boolean | undefined;
}

export interface NativeRenderedImage {
  pixels: Uint8Array;
  mask: Uint8Array;
  pose: { yaw: number; pitch: number; roll: number };
  landmarks: Float32Array;
  identityCoefficients: Float32Array;
  expressionCoefficients: Float32Array;
}

/** Draws people from the packed face model, on threads of its own. */
export interface NativeFaceRenderer {
  render(request: NativeRenderRequest, cancellation: NativeCancellation): Promise<NativeRenderedImage>;
}

/** The addon's exports, one to one with `bindings/`. */
export interface NativeBinding {
  /** `threads` and `isa` are the CPU's. */
  Device: new (name: string, threads?: number, isa?: string) => NativeDevice;
  Tensor: new (device: NativeDevice, type: TensorType) => NativeTensor;
  MappedFile: new (path: string) => NativeMappedFile;
  Weights: new () => NativeWeights;
  Cancellation: new () => NativeCancellation;
  FaceRenderer: new (
    file: NativeMappedFile,
    tensors: Record<string, { offset: number; bytes: number }>,
    threads?: number,
  ) => NativeFaceRenderer;
  compile(
    device: NativeDevice,
    weights: NativeWeights,
    graph: NativeGraph,
    cancellation: NativeCancellation,
  ): Promise<NativePlan>;
  /** The image's memory must not change before the promise settles. */
  preprocess(
    device: NativeDevice,
    image: { data: Uint8Array; width: number; height: number },
    settings: NativePreprocess,
    tensor: NativeTensor,
    element: number,
    cancellation: NativeCancellation,
  ): Promise<void>;
  cudaDevices(): NativeCudaDevices;
  inferShapes(
    op: string,
    inputs: readonly (TensorType | null)[],
    attributes: Record<string, number | string>,
  ): TensorType[];
  /** Multiplications and additions of one use of an operator. */
  operatorFlops(
    op: string,
    inputs: readonly (TensorType | null)[],
    attributes: Record<string, number | string>,
  ): number;
  /** Index of the first value that is infinite or NaN, or −1. */
  firstNotFinite(values: Float32Array): number;
  operators(): string[];
  /** Runs a graph without weights through the operators' references, in double precision; for tests. @param bf16 rounds every result to bf16 */
  evaluateReference(
    graph: NativeGraph,
    inputs: Record<string, Float64Array>,
    bf16?: boolean,
  ): Record<string, Float64Array>;
  operatorCases(op: string): OperatorCase[];
  instructionSets(): string[];
  availableParallelism(): number;
  processorName(): string;
  readonly version: string;
  readonly packedLayout: string;
  /** Name and version of the compiler that the addon was built with. */
  readonly compiler: string;
}

let loaded: NativeBinding | undefined;

/**
 * The addon: the file that `OMNI_ID_ADDON` names, else a prebuild for this platform, else what was compiled at install.
 * Loaded on first use, so that importing the package never throws.
 *
 * @throws {AddonError} `ERR_ADDON` naming the platform, what was tried and what to do.
 */
export function native(): NativeBinding {
  if (loaded) return loaded;
  // This file lies one folder below the package's root, as source (src/) and as built (dist/).
  const root = join(dirname(fileURLToPath(import.meta.url)), '..');
  const require = createRequire(import.meta.url);
  const forced = process.env['OMNI_ID_ADDON'];
  try {
    if (forced !== undefined && forced !== '') {
      loaded = require(forced) as NativeBinding;
    } else {
      const load = require('node-gyp-build') as (folder: string) => NativeBinding;
      loaded = load(root);
    }
  } catch (cause) {
    const platform = `${process.platform}-${process.arch}, Node ${process.versions.node} (module ABI ${process.versions.modules})`;
    throw new AddonError(
      `the native addon of omni-id could not be loaded on ${platform}. Tried: ` +
        (forced
          ? `OMNI_ID_ADDON=${forced}`
          : `prebuilds/${process.platform}-${process.arch} and build/Release`) +
        `: ${messageOf(cause).trim()}. ` +
        'To compile it, install CMake 3.18 or newer and a C++20 compiler, then run "npm rebuild omni-id".',
      { cause },
    );
  }
  return loaded;
}
