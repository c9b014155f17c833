import { native, type NativeWeights } from '../bindings.js';
import { Session } from '../graph/session.js';
import { clipVisionNames, matchWeights, openCheckpoint, registerWeights } from '../io/checkpoint.js';
import { clipVisionWeights } from '../models/clip_vision.js';
import { blockDeviation, initialise, meanAndSpread } from '../models/initialise.js';
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
    for (const { name, shape, slot } of runWeights(config, engine)) {
      const inStore = name.replace(/^encoder\./, '');
      const decoder = engine.model.decoders.find((one) => name.startsWith(`${one.name}.`));
      if (decoder) {
        const spread = blockDeviation(name, shape, decoder.width, decoder.depth);
        const [mean, deviation] = meanAndSpread(name, shape, spread);
        await fresh.cancellable(signal, (cancellation) =>
          fresh.weights.setNormal(device, inStore, shape, config.seed, mean, deviation, cancellation),
        );
      }
      const count = shape.reduce((product, n) => product * n, 1);
      const values = readWeight(fresh.weights, inStore, 0, count);
      if (slot) engine.state.write('values', slot, values);
      else engine.session.weights.set(name, shape, values);
    }
    engine.startAverage();
  } finally {
    fresh.dispose();
  }
}
