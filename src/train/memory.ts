import { native } from '../bindings.js';
import { DeviceError } from '../errors.js';
import { openDevice } from '../graph/devices.js';
import { Session, translated } from '../graph/session.js';
import { availableMemory } from '../io/memory.js';
import type { TrainingConfig } from './config.js';
import { ParameterLayout } from './parameters.js';
import { photoSize } from './run_parts.js';
import { stepGraph, type StepKind, type StepModel, type StepShape } from './step_graph.js';

/** What a run takes, in bytes. */
export interface MemoryNeeds {
  /** Numbers that are trained or frozen. */
  readonly parameters: number;
  /** Values, gradients, moments, the moving average, and weights that are frozen. */
  readonly state: number;
  /** What is there beside the state only while weights get their first values. */
  readonly initialisation: number;
  /** Values between the operators of a step; 0 when they are not known before there are weights, as with frozen ones. */
  readonly activations: number;
  /** The photos of the steps that are made ready, and where they lie on the device. */
  readonly photos: number;
}

/** The largest micro-batch of a run. */
export function largestShape({ sampling, accumulation }: TrainingConfig): StepShape {
  const identities = sampling.identities / accumulation;
  return { identities, photos: identities * sampling.inputs[1], targets: identities * sampling.targets };
}

/** What a run takes, found out without taking it. */
export async function memoryNeeds(config: TrainingConfig, model: StepModel): Promise<MemoryNeeds> {
  const graphOf = (shape: StepShape, kind: Partial<StepKind>) =>
    translated(() => stepGraph(model, shape, { gradients: 'none', update: false, show: false, ...kind }));
  const { parameters, weights } = graphOf({ identities: 1, photos: 1, targets: 1 }, {});
  const { size, slots } = new ParameterLayout(parameters);
  const count = ({ shape }: { readonly shape: readonly number[] }): number =>
    shape.reduce((product, n) => product * n, 1);
  const all = [...slots, ...Array.from(weights, ([name, { shape }]) => ({ name, shape }))];
  /** Bytes of the weights of the encoder, or of a decoder. */
  const bytesOf = (part: string): number =>
    all.filter(({ name }) => name.startsWith(`${part}.`)).reduce((sum, weight) => sum + 4 * count(weight), 0);
  const frozen = Array.from(weights.values(), count).reduce((sum, n) => sum + 4 * n, 0);
  const vectors = config.optimizer.emaDecay === null ? 4 : 5;
  return {
    parameters: all.reduce((sum, weight) => sum + count(weight), 0),
    state: 4 * size * vectors + frozen,
    initialisation: bytesOf('encoder') + Math.max(...model.decoders.map(({ name }) => bytesOf(name))),
    activations: weights.size > 0 ? 0 : await arenaBytes(config, graphOf(largestShape(config), { gradients: 'new' })),
    photos: photoBytes(config),
  }; // prettier-ignore
}

/** Bytes between the operators of a graph. It reads no weights: compiling it packs none. */
async function arenaBytes(
  { device, threads }: TrainingConfig,
  graph: ReturnType<typeof stepGraph>,
): Promise<number> {
  const session = new Session(openDevice({ device, threads }), new (native().Weights)());
  try {
    return (await session.plan('largest', () => graph)).arenaBytes;
  } finally {
    session.dispose();
  }
}

function photoBytes(config: TrainingConfig): number {
  const { sampling, encoder, decoders, data } = config;
  const inputs = sampling.identities * sampling.inputs[1];
  const targets = sampling.identities * sampling.targets;
  // Bytes of inputs, targets and masks, of the steps that are ready and the one that is being made; f32 twice on the device.
  const ready = (data.prefetch + 1) * photoSize(config) ** 2 * (3 * inputs + 4 * targets);
  const onDevice = [12 * inputs * encoder.vision.imageSize ** 2, ...decoders.map(({ imageSize }) => 16 * targets * imageSize ** 2)]; // prettier-ignore
  return ready + 2 * onDevice.reduce((sum, bytes) => sum + bytes, 0);
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`;

const advice = 'expected a smaller encoder, fewer identities or targets in a step, a larger accumulation, or checkpointing'; // prettier-ignore

/**
 * Checks a step's activations by themselves, once everything else has been taken: with frozen weights they are not known before.
 * @throws {DeviceError} `ERR_OUT_OF_MEMORY`
 */
export function checkActivations(bytes: number, available = availableMemory()): void {
  if (bytes <= available) return;
  throw new DeviceError(
    'ERR_OUT_OF_MEMORY',
    `the activations of a step need ${gigabytes(bytes)}, available are ${gigabytes(available)}: ${advice}`,
  );
}

/**
 * @param available bytes that there are. Default: of this machine, now
 * @throws {DeviceError} `ERR_OUT_OF_MEMORY` when a run takes more than there is
 */
export function checkMemory(
  { parameters, state, initialisation, activations, photos }: MemoryNeeds,
  available = availableMemory(),
): void {
  const needed = state + Math.max(initialisation, activations + photos);
  if (needed <= available) return;
  const millions = (parameters / 1e6).toFixed(0);
  const step = `activations of a step ${activations === 0 ? 'not counted' : gigabytes(activations)}, photos ${gigabytes(photos)}`;
  throw new DeviceError(
    'ERR_OUT_OF_MEMORY',
    `training needs about ${gigabytes(needed)}, available are ${gigabytes(available)}: ${millions} million parameters with gradients and moments ${gigabytes(state)}, ` +
      `${step}; ${advice}`,
  );
}
