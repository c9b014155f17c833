import { native } from '../bindings.js';
import { DeviceError } from '../errors.js';
import { freeDeviceMemory, openDevice } from '../graph/devices.js';
import { Session, translated } from '../graph/session.js';
import { availableMemory } from '../io/memory.js';
import { gigabytes } from '../text.js';
import type { TrainingConfig } from './config.js';
import { ParameterLayout } from './parameters.js';
import { heldOutCacheBytes } from './run_data.js';
import { photoSize } from './run_parts.js';
import { stepGraph, type StepKind, type StepModel, type StepShape } from './step_graph.js';

/** Steps' photos of held-out people that are read before they are asked for. */
export const heldOutPrefetch = 2;

/** What a run takes, in bytes. */
export interface MemoryNeeds {
  /** Numbers that are trained or frozen. */
  readonly parameters: number;
  /** Values, gradients, moments, the moving average, and weights that are frozen. */
  readonly state: number;
  /** Of a checkpoint on disk: all of the state but gradients. */
  readonly checkpoint: number;
  /** What the host holds only while weights get their first values. */
  readonly initialisation: number;
  /** Values between the operators of a step, or of one of held-out people; 0 when they are not known before there are weights, as with frozen ones. */
  readonly activations: number;
  /** Where the photos of steps lie on the device, of training and of held-out people. */
  readonly tensors: number;
  /** The photos of steps that the host has made ready, and those of held-out people that it keeps. */
  readonly photos: number;
}

/** Bytes that there are to take. */
export interface AvailableMemory {
  readonly host: number;
  /** Of the device that computes; undefined when it computes in the host's memory. */
  readonly device: number | undefined;
}

/** What there is for a run, now. */
export function memoryFor({ device, threads }: TrainingConfig): AvailableMemory {
  return { host: availableMemory(), device: freeDeviceMemory({ device, threads }) };
}

/** So many people with the most photos that they can have. */
function shapeOf(identities: number, { sampling }: TrainingConfig): StepShape {
  return { identities, photos: identities * sampling.inputs[1], targets: identities * sampling.targets };
}

/** The largest micro-batch of a run. */
export function largestShape(config: TrainingConfig): StepShape {
  return shapeOf(config.sampling.identities / config.accumulation, config);
}

/**
 * What held-out people run as: as many each time, without a rest, and no more at once than in a micro-batch, which was cut to fit.
 */
export function heldOutShape(config: TrainingConfig, people: number): StepShape {
  let identities = Math.min(people, largestShape(config).identities);
  while (people % identities !== 0) identities--;
  return shapeOf(identities, config);
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
  const graphs = [graphOf(largestShape(config), { gradients: 'new' })];
  const people = config.data.heldOut.identities;
  if (people > 0) graphs.push(graphOf(heldOutShape(config, people), {}));
  return {
    parameters: all.reduce((sum, weight) => sum + count(weight), 0),
    state: 4 * size * vectors + frozen,
    checkpoint: 4 * size * (vectors - 1) + frozen,
    initialisation: bytesOf('encoder') + Math.max(...model.decoders.map(({ name }) => bytesOf(name))),
    activations: weights.size > 0 ? 0 : await largestArena(config, graphs),
    ...photoBytes(config),
  }; // prettier-ignore
}

/** Bytes between the operators of the largest of these graphs; all share one arena. They read no weights: compiling them packs none. */
async function largestArena(
  { device, threads }: TrainingConfig,
  graphs: readonly ReturnType<typeof stepGraph>[],
): Promise<number> {
  const session = new Session(openDevice({ device, threads }), new (native().Weights)());
  try {
    let largest = 0;
    for (const [i, graph] of graphs.entries())
      largest = Math.max(largest, (await session.plan(String(i), () => graph)).arenaBytes);
    return largest;
  } finally {
    session.dispose();
  }
}

/** Held-out photos are the same every time, and kept; beside them are those of a step that is being made of them, and of the ones that are ready. */
function photoBytes(config: TrainingConfig): Pick<MemoryNeeds, 'tensors' | 'photos'> {
  const { sampling, encoder, decoders, data } = config;
  const { identities, targets } = sampling;
  const [, inputs] = sampling.inputs;
  const pixels = photoSize(config) ** 2;
  const people = data.heldOut.identities;
  // How people are divided is not known before they are counted.
  const peopleAtOnce = Math.min(people, largestShape(config).identities);
  // Bytes of a person's inputs, targets and masks in a batch; f32 on the device.
  const inBatch = pixels * (3 * inputs + 4 * targets);
  const onDevice =
    [12 * inputs * encoder.vision.imageSize ** 2, ...decoders.map(({ imageSize }) => 16 * targets * imageSize ** 2)] // prettier-ignore
      .reduce((sum, bytes) => sum + bytes, 0);
  const ready = (data.prefetch + 1) * identities + (heldOutPrefetch + 1) * peopleAtOnce;
  const kept = Math.min(heldOutCacheBytes, people * (inputs + targets) * 4 * pixels);
  // Two steps' tensors take turns.
  return { tensors: (2 * identities + peopleAtOnce) * onDevice, photos: ready * inBatch + kept };
}

const advice = 'expected a smaller encoder, fewer identities or targets in a step, a larger accumulation, or checkpointing'; // prettier-ignore

/**
 * Checks a step's activations by themselves, once everything else has been taken: with frozen weights they are not known before.
 * @throws {DeviceError} `ERR_OUT_OF_MEMORY`
 */
export function checkActivations(bytes: number, { host, device }: AvailableMemory): void {
  const available = device ?? host;
  if (bytes <= available) return;
  throw new DeviceError(
    'ERR_OUT_OF_MEMORY',
    `the activations of a step need ${gigabytes(bytes)}, available are ${gigabytes(available)}${device === undefined ? '' : ' on the device'}: ${advice}`,
  );
}

/** @throws {DeviceError} `ERR_OUT_OF_MEMORY` when a run takes more than there is */
export function checkMemory(needs: MemoryNeeds, { host, device }: AvailableMemory): void {
  const { parameters, state, initialisation, activations, tensors, photos } = needs;
  const shared = device === undefined;
  const needed = state + (shared ? Math.max(initialisation, activations + tensors + photos) : activations + tensors); // prettier-ignore
  const available = device ?? host;
  if (needed > available) {
    const millions = (parameters / 1e6).toFixed(0);
    const step = `activations of a step ${activations === 0 ? 'not counted' : gigabytes(activations)}, photos ${gigabytes(shared ? tensors + photos : tensors)}`;
    throw new DeviceError(
      'ERR_OUT_OF_MEMORY',
      `training needs about ${gigabytes(needed)}, available are ${gigabytes(available)}${shared ? '' : ' on the device'}: ${millions} million parameters with gradients and moments ${gigabytes(state)}, ` +
        `${step}; ${advice}`,
    );
  }
  const ofHost = Math.max(initialisation, photos);
  if (shared || ofHost <= host) return;
  throw new DeviceError(
    'ERR_OUT_OF_MEMORY',
    `training needs about ${gigabytes(ofHost)} of the host's memory, available are ${gigabytes(host)}: new weights ${gigabytes(initialisation)}, then photos ${gigabytes(photos)}; ` +
      'expected a smaller encoder, fewer identities or targets in a step, or fewer steps that are made ready (data.prefetch)',
  );
}
