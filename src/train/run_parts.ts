import { native } from '../bindings.js';
import { openDevice } from '../graph/devices.js';
import { Session, translated } from '../graph/session.js';
import type { Batch } from './batch_loader.js';
import type { TrainingConfig } from './config.js';
import { MaskedDecoder, type Decoder } from './decoders.js';
import { TrainingEngine } from './engine.js';
import { visiblePatches } from '../data/visible_patches.js';
import { visibleOfTargets, type FewToManyOptions } from './few_to_many.js';
import { ParameterGroups } from './parameter_groups.js';
import { stepGraph, type StepModel } from './step_graph.js';

/** As in the encoder. */
const decoderNormEps = 1e-5;

/** The decoders of a configuration. Several of one kind draw their patches independently. */
export function decodersOf(config: TrainingConfig): MaskedDecoder[] {
  return config.decoders.map((decoder, i) => {
    const { weight, imageSize, patchSize, width, heads, mlpRatio, crossBlocks, selfBlocks } = decoder;
    const sizes = { imageSize, patchSize, width, heads, mlpRatio, crossBlocks, selfBlocks };
    const sampling = samplingOf(config, i);
    return new MaskedDecoder({
      config: { ...sizes, layerNormEps: decoderNormEps },
      visible: visiblePatches(sampling.patches, sampling.maskRatio),
      maskRatio: sampling.maskRatio,
      weight,
      name: i === 0 ? 'mtd' : `mtd_${i}`,
      visibleOf: (batch) => (i === 0 ? batch.visible : visibleOf(batch, sampling, i)),
    });
  });
}

/** The patches that a decoder sees of a batch's targets, for all but the first. */
function visibleOf({ step, sample }: Batch, sampling: FewToManyOptions, draw: number): Int32Array {
  const rows = sample.identities.flatMap((_, slot) => visibleOfTargets(sampling, { step, slot }, draw));
  return Int32Array.from(rows.flatMap((row) => [...row]));
}

/** What is drawn for a step, with the patches of one of the decoders. */
export function samplingOf(config: TrainingConfig, decoder = 0): FewToManyOptions {
  const { identities, inputs, targets, flip, targetsMayIncludeInputs } = config.sampling;
  const { imageSize = 1, patchSize = 1, maskRatio = 0.5 } = config.decoders[decoder] ?? {};
  const patches = Math.floor(imageSize / patchSize) ** 2;
  return {
    seed: config.seed,
    identitiesPerStep: identities,
    inputs,
    targets,
    flipProbability: flip,
    targetsMayIncludeInputs,
    maskRatio,
    patches,
  };
}

/** Side of the photos that are read: the largest that encoder and decoders need. */
export function photoSize(config: TrainingConfig): number {
  return Math.max(config.encoder.vision.imageSize, ...config.decoders.map(({ imageSize }) => imageSize));
}

/**
 * What the steps of a configuration are made of.
 * @throws {ConfigError} `ERR_CONFIG` when a pattern of `frozen` matches no parameter, or nothing is left to train: names are known without any weight
 */
export function stepModel(config: TrainingConfig, decoders: readonly Decoder[]): StepModel {
  const { encoder, dtype, optimizer, checkpointing: recompute } = config;
  const groups = new ParameterGroups(optimizer);
  const model = { encoder, decoders, dtype, training: { trainable: (name: string) => !groups.role(name, [1]).frozen, recompute } }; // prettier-ignore
  const shape = { identities: 1, photos: 1, targets: 1 };
  const { parameters, weights } = translated(() => stepGraph(model, shape, { gradients: 'none', update: false, show: false })); // prettier-ignore
  groups.check([...parameters.flatMap(({ names }) => names), ...weights.keys()]);
  return model;
}

/** The engine of a configuration: weights are not written yet. */
export function openEngine(config: TrainingConfig, decoders: readonly Decoder[]): TrainingEngine {
  const { optimizer } = config;
  const groups = new ParameterGroups(optimizer);
  const session = new Session(
    openDevice({ device: config.device, threads: config.threads }),
    new (native().Weights)(),
  );
  try {
    const backbone = (optimizer.backboneLearningRate ?? optimizer.learningRate) / optimizer.learningRate;
    return new TrainingEngine(session, stepModel(config, decoders), {
      betas: optimizer.betas,
      epsilon: optimizer.epsilon,
      average: optimizer.emaDecay !== null,
      clipGradNorm: optimizer.clipGradNorm ?? 0,
      rateOf: ({ name, shape }) => {
        const { frozen, decay, group } = groups.role(name, shape);
        return {
          rate: group === 'backbone' ? backbone : 1,
          decay: decay ? optimizer.weightDecay : 0,
          frozen,
        };
      },
    });
  } catch (error) {
    session.dispose();
    throw error;
  }
}
