import { native, type NativeWeights } from '../bindings.js';
import { Session } from '../graph/session.js';
import { clipVisionNames, matchWeights, openCheckpoint, registerWeights } from '../io/checkpoint.js';
import { clipVisionWeights } from '../models/clip_vision.js';
import { initialise } from '../models/initialise.js';
import { omniIdWeights } from '../models/omni_id_encoder.js';
import type { TrainingConfig } from './config.js';
import type { TrainingEngine } from './engine.js';
import type { Slot } from './parameters.js';

/** Every weight of a run, under the trainer's names: those of the encoder after `encoder.`, of a decoder after its name. */
export interface RunWeight {
  readonly name: string;
  readonly shape: readonly number[];
  /** Where it lies in the run's vectors; undefined when it is not trained. */
  readonly slot: Slot | undefined;
}

/** Every weight of a run: those of the encoder's published list, and those that the decoders read. */
export function runWeights(config: TrainingConfig, engine: TrainingEngine): readonly RunWeight[] {
  const slots = new Map(engine.layout.slots.map((slot) => [slot.name, slot]));
  const shapes = new Map<string, readonly number[]>();
  for (const [name, { shape }] of omniIdWeights(config.encoder)) shapes.set(`encoder.${name}`, shape);
  for (const { name, shape } of slots.values()) shapes.set(name, shape);
  for (const [name, { shape }] of engine.frozen) shapes.set(name, shape);
  return [...shapes].map(([name, shape]) => ({ name, shape, slot: slots.get(name) }));
}

const floats = ({ buffer, byteOffset, byteLength }: Uint8Array): Float32Array =>
  new Float32Array(buffer, byteOffset, byteLength / 4);

/** A weight of a store as f32. */
export function readWeight(weights: NativeWeights, name: string, first: number, count: number): Float32Array {
  return floats(weights.read(name, 'f32', first, count));
}

/**
 * Gives a run's weights their first values: the vision tower's from a CLIP model where the configuration names one, all others from the seed.
 * Peak memory: the encoder's weights once more.
 */
export async function writeInitialWeights(
  config: TrainingConfig,
  engine: TrainingEngine,
  signal: AbortSignal,
): Promise<void> {
  const { device } = engine.session;
  const fresh = new Session(device, new (native().Weights)());
  try {
    if (config.clip !== undefined) {
      const tower = clipVisionWeights(config.encoder.vision);
      const checkpoint = clipVisionNames(await openCheckpoint(config.clip));
      registerWeights(fresh.weights, matchWeights(checkpoint, tower, config.clip));
    }
    await initialise(fresh, config.encoder, omniIdWeights(config.encoder), config.seed, signal);
    const weights = runWeights(config, engine);
    for (const weight of weights) {
      if (weight.name.startsWith('encoder.')) copyWeight(engine, fresh.weights, weight, 'encoder.');
    }
    for (const [i, decoder] of engine.model.decoders.entries()) {
      const prefix = `${decoder.name}.`;
      const its = weights.filter(({ name }) => name.startsWith(prefix));
      const own = new Session(device, new (native().Weights)());
      try {
        const named = new Map(its.map((weight) => [weight.name.slice(prefix.length), weight]));
        // Weights of one name in two decoders are not the same.
        await decoder.initialise(own, named, config.seed + i, signal);
        for (const weight of its) copyWeight(engine, own.weights, weight, prefix);
      } finally {
        own.dispose();
      }
    }
    engine.startAverage();
  } finally {
    fresh.dispose();
  }
}

/** @param prefix of the run's names, which the store's do not have */
function copyWeight(
  engine: TrainingEngine,
  from: NativeWeights,
  { name, shape, slot }: RunWeight,
  prefix: string,
): void {
  const count = shape.reduce((product, n) => product * n, 1);
  const values = readWeight(from, name.slice(prefix.length), 0, count);
  if (slot) engine.state.write('values', slot, values);
  else engine.session.weights.set(name, shape, values);
}
