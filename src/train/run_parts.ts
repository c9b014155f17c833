import { native } from '../bindings.js';
import { openDevice, Session } from '../graph/session.js';
import type { TrainingConfig } from './config.js';
import { MaskedDecoder } from './decoders.js';
import { TrainingEngine } from './engine.js';
import { visiblePatches } from '../data/visible_patches.js';
import { FewToManySampler, type FewToManyOptions, type PhotoCounts } from './few_to_many.js';
import { ParameterGroups } from './parameter_groups.js';

/** As in the encoder. */
export const decoderNormEps = 1e-5;

/** The decoders of a configuration. Several of one kind draw their patches independently. */
export function decodersOf(config: TrainingConfig, photos: PhotoCounts): MaskedDecoder[] {
  return config.decoders.map((decoder, i) => {
    const { imageSize, patchSize, maskRatio, weight, width, heads, mlpRatio, crossBlocks, selfBlocks } =
      decoder;
    const name = i === 0 ? 'mtd' : `mtd_${i}`;
    const patches = Math.floor(imageSize / patchSize) ** 2;
    const mtd = {
      imageSize,
      patchSize,
      width,
      heads,
      mlpRatio,
      crossBlocks,
      selfBlocks,
      layerNormEps: decoderNormEps,
    };
    const visible = visiblePatches(patches, maskRatio);
    if (i === 0) return new MaskedDecoder({ config: mtd, visible, weight, name });
    const sampler = new FewToManySampler(photos, samplingOf(config, i));
    return new MaskedDecoder({
      config: mtd,
      visible,
      weight,
      name,
      visibleOf: ({ step }) => {
        const all = sampler.sample(step).identities.flatMap((identity) => [...identity.visible]);
        return Int32Array.from(all.flatMap((indices) => [...indices]));
      },
    });
  });
}

/** What is drawn for a step, with the patches of one of the decoders. */
export function samplingOf(config: TrainingConfig, decoder = 0): FewToManyOptions {
  const { identities, inputs, targets, flip } = config.sampling;
  const { imageSize = 1, patchSize = 1, maskRatio = 0.5 } = config.decoders[decoder] ?? {};
  const patches = Math.floor(imageSize / patchSize) ** 2;
  return {
    seed: config.seed,
    identitiesPerStep: identities,
    inputs,
    targets,
    flipProbability: flip,
    maskRatio,
    patches,
    masks: decoder,
  };
}

/** Side of the photos that are read: the largest that encoder and decoders need. */
export function photoSize(config: TrainingConfig): number {
  return Math.max(config.encoder.vision.imageSize, ...config.decoders.map(({ imageSize }) => imageSize));
}

/** The engine of a configuration: weights are not written yet. */
export function openEngine(config: TrainingConfig, decoders: readonly MaskedDecoder[]): TrainingEngine {
  const { optimizer } = config;
  const groups = new ParameterGroups(optimizer);
  const session = new Session(
    openDevice({ device: config.device, threads: config.threads }),
    new (native().Weights)(),
  );
  try {
    const backbone = (optimizer.backboneLearningRate ?? optimizer.learningRate) / optimizer.learningRate;
    const engine = new TrainingEngine(
      session,
      {
        encoder: config.encoder,
        decoders,
        dtype: config.dtype,
        training: {
          trainable: (name) => !groups.role(name, [1]).frozen,
          recompute: config.checkpointing,
        },
      },
      {
        betas: optimizer.betas,
        epsilon: optimizer.epsilon,
        average: optimizer.emaDecay !== null,
        clipGradNorm: optimizer.clipGradNorm ?? 0,
        rateOf: ({ name, shape }) => {
          const { frozen, decay, group } = groups.role(name, shape);
          if (frozen) return { rate: 0, decay: 0 };
          return { rate: group === 'backbone' ? backbone : 1, decay: decay ? optimizer.weightDecay : 0 };
        },
      },
    );
    groups.check([...engine.layout.slots.map(({ name }) => name), ...engine.frozen.keys()]);
    return engine;
  } catch (error) {
    session.dispose();
    throw error;
  }
}
