import { z } from 'zod';
import { mostPeople, mostRenderedPixels } from '../data/rendered.js';
import { peopleCount, viewCount } from '../data/rendered_dataset.js';
import { viewFields } from '../data/view_options.js';
import { deviceName } from '../graph/devices.js';
import {
  depth,
  layers,
  only,
  pixels,
  positive,
  positiveTriple,
  ratio,
  share,
  size,
  triple,
} from '../io/schema.js';
import {
  describe,
  field,
  flag,
  kind,
  maskRatio,
  number,
  oneOf,
  orNull,
  path,
  seed,
  strict,
  told,
  whole,
} from '../kinds.js';
import { presets, type PresetName } from '../models/presets.js';
import { threadCount } from '../options.js';

/**
 * The training configuration as a file has it: every field with its default, which is ours where the paper is silent. What is unknown is refused by name. Fields whose
 * default depends on others (the encoder's sizes, the decoders' widths) are filled in by `parseTrainingConfig`.
 */

/** A share that is not all. */
const decaying = number({ from: 0, below: 1 });
const rate = field(number({ above: 0, to: 1e38 }));
const most = 1_000_000_000;
const count = field(whole(1, most));
const countOrZero = field(whole(0, most));
const countOrNull = field(orNull(whole(1, most)));
const photos = field(whole(1, 4096));
/** Of a step, or parts that it is split into. */
const parts = field(whole(1, 65_536));
const place = field(path);
/** Globs of picomatch over whole parameter names, in which `*` matches dots too. */
const patterns = z.array(
  field(
    kind<string>(
      'a pattern of names, like "encoder.*"',
      (value) => typeof value === 'string' && value !== '',
    ),
  ),
);

const presetNames = Object.keys(presets) as PresetName[];

/** A preset by name, or a preset and what is different from it. */
const encoder = z.preprocess(
  (value) => (typeof value === 'string' ? { preset: value } : value),
  strict({
    preset: field(oneOf(...presetNames)).default('nano'),
    /** CLIP's vision tower. With another `hiddenSize`, MLPs keep the preset's ratio and heads their width, unless they are given. */
    vision: strict({
      hiddenSize: size.optional(),
      intermediateSize: size.optional(),
      numHiddenLayers: depth.optional(),
      numAttentionHeads: size.optional(),
      imageSize: pixels.optional(),
      patchSize: pixels.optional(),
      numChannels: only(3).optional(),
      hiddenAct: field(oneOf('gelu', 'quick_gelu')).optional(),
      layerNormEps: share.optional(),
    }).prefault({}),
    /** Default: CLIP's, at the tower's image size. */
    imageProcessor: strict({
      shortestEdge: pixels,
      cropSize: pixels,
      rescaleFactor: positive,
      mean: triple,
      std: positiveTriple,
    }).optional(),
    /** L, the number of identity tokens. */
    tokens: size.optional(),
    /** C, their width. */
    width: size.optional(),
    /** Default: as many as keep the preset's width of a head. */
    heads: size.optional(),
    mlpRatio: ratio.optional(),
    crossBlocks: layers.optional(),
    selfBlocks: layers.optional(),
    layerNormEps: share.optional(),
    features: field(oneOf('last_hidden_state', 'penultimate')).optional(),
  }),
);

/** The masked transformer decoder (paper, section 3.2). The paper leaves its size open. */
const mtd = strict({
  type: z.literal('mtd'),
  /** Weight of its loss in the sum. */
  weight: positive.default(1),
  /** Side of the target, in pixels. Default: the encoder's. */
  imageSize: pixels.optional(),
  patchSize: pixels.default(14),
  /** Default: the encoder's. */
  width: size.optional(),
  /** Default: as many as make heads as wide as the encoder's. */
  heads: size.optional(),
  crossBlocks: layers.default(2),
  selfBlocks: layers.default(2),
  mlpRatio: ratio.default(4),
  /** Share of the patches that the decoder does not see: the paper's 95 %. */
  maskRatio: field(maskRatio).default(0.95),
});

const decoder = z.discriminatedUnion('type', [mtd], told('type', 'mtd'));

const heldOut = {
  /** Identities that are kept out of training; 0 for none. */
  identities: field(whole(0, mostPeople, 'people are listed in memory')).default(64),
};
const dataCommon = {
  /** Batches that are made ready ahead of the engine, at most. */
  prefetch: field(whole(1, 1024)).default(3),
  /** Photos of a step that are read at once. Default: 3. */
  workers: field(whole(1, 1024)).optional(),
};
const stored = strict({
  ...heldOut,
  /** Another data set to take them from. Default: the last ones of this one. */
  path: place.optional(),
}).prefault({});

const data = z.discriminatedUnion(
  'kind',
  [
    /** A folder of identity folders. */
    strict({ kind: z.literal('folder'), path: place, heldOut: stored, ...dataCommon }),
    /** A folder of WebDataset tar shards. */
    strict({ kind: z.literal('shards'), path: place, heldOut: stored, ...dataCommon }),
    /** People and views rendered from seeds, once, before the first step: needs no files. */
    strict({
      kind: z.literal('rendered'),
      identities: field(peopleCount).default(2000),
      views: field(viewCount).default(12),
      /** Seed of the first person. Held-out people have seeds of their own (`heldOutSeed`), which these must not reach. */
      firstSeed: field(seed).default(0),
      /** Side of the pictures, in pixels. Default: the largest image size of encoder and decoders. */
      size: field(whole(1, mostRenderedPixels)).optional(),
      /** What of the views is chosen instead of drawn: `crop`, `poseSpread`, `jitter` and so on, as `RenderedDataset` takes them. Of held-out people too. */
      view: strict(viewFields).prefault({}),
      /** Folder that rendered pictures are kept in, which runs may share. Default: `data` in the run's folder. */
      cache: place.optional(),
      heldOut: strict(heldOut).prefault({}),
      ...dataCommon,
    }),
  ],
  told('kind', 'folder', 'shards', 'rendered'),
);

/** Few-to-many sampling (paper, section 3.3). */
const sampling = strict({
  /** Identities in a step, over all of its micro-batches. Of fewer in the data some come several times, with photos drawn anew. */
  identities: parts.default(4),
  /** S, the photos that ℓ is made from; [fewest, most] draws their number anew for every step. */
  inputs: z
    .preprocess(
      (value) => (typeof value === 'number' ? [value, value] : value),
      z.tuple([photos, photos], {
        error: ({ input }) => `is ${describe(input)}, expected a whole number or [fewest, most]`,
      }),
    )
    .prefault(3),
  /** R, the photos that are rebuilt. */
  targets: photos.default(8),
  /** Whether a photo that ℓ is made from may be rebuilt too, as in the paper. */
  targetsMayIncludeInputs: field(flag).default(true),
  /** Probability that an image is mirrored, with its mask. */
  flip: share.default(0.5),
});

/** AdamW (Loshchilov and Hutter 2019). Rates are ours: the paper names none. */
const optimizer = strict({
  /** Of new layers: the encoder's head and the decoders. */
  learningRate: rate.default(3e-4),
  /** Of the vision tower. Default: the same. */
  backboneLearningRate: rate.optional(),
  betas: z.tuple([field(decaying), field(decaying)]).default([0.9, 0.95]),
  epsilon: positive.default(1e-8),
  /** Decoupled; none on vectors and on what `noDecay` matches. */
  weightDecay: share.default(0.05),
  /** Largest norm of all gradients together; null does not clip. */
  clipGradNorm: field(orNull(number({ above: 0 }))).default(1),
  /** Decay of the moving average of the weights per step, less in the first ones; null keeps none. */
  emaDecay: field(orNull(decaying)).default(0.999),
  warmupSteps: countOrZero.default(500),
  schedule: field(oneOf('cosine', 'constant')).default('cosine'),
  /** Where the cosine ends, as a share of the learning rate. */
  minLearningRateRatio: share.default(0.01),
  /** Parameters that are not trained. */
  frozen: patterns.default([]),
  noDecay: patterns.default([
    '*norm*',
    '*.bias',
    '*queries',
    '*position_embedding*',
    '*pos_embed*',
    '*class_embedding',
    '*mask_token',
  ]),
});

const log = strict({
  /** Steps between lines of the log. */
  every: count.default(10),
  /** Steps between pictures of reconstructions; null for none. */
  imagesEvery: countOrNull.default(1000),
  /** Steps between evaluations on held-out identities; null for none. */
  evaluateEvery: countOrNull.default(500),
  /** Whether TensorBoard event files are written too. */
  tensorboard: field(flag).default(true),
});

const checkpoints = strict({
  /** Steps between checkpoints. */
  every: count.default(1000),
  /** How many of the last ones are kept. */
  keepLast: count.default(3),
  /** Whether the one with the lowest held-out loss is kept too. */
  best: field(flag).default(true),
});

export const trainingSchema = strict({
  encoder: encoder.prefault({}),
  /** Folder of a CLIP model that the vision tower starts from, as in the paper; its config takes the place of `encoder.vision`. */
  clip: place.optional(),
  /** One or several; their losses are added by weight. */
  decoders: z
    .array(decoder)
    .min(1, { error: ({ input }) => `is ${describe(input)}, expected at least one decoder` })
    .prefault([{ type: 'mtd' }]),
  data: data.prefault({ kind: 'rendered' }),
  sampling: sampling.prefault({}),
  optimizer: optimizer.prefault({}),
  /** Optimizer steps in all. The paper's first stage has 250,000. */
  steps: count.default(250_000),
  /** Micro-batches that a step is split into, to fit into memory. */
  accumulation: parts.default(1),
  /** What products are computed in; weights, moments and sums are f32 in both. */
  dtype: field(oneOf('bf16', 'f32')).default('bf16'),
  /** Of everything random: weights, sampling, masks, flips. */
  seed: field(seed).default(0),
  /** Activations of blocks are computed again in the backward pass instead of kept. The result is the same, bit for bit. */
  checkpointing: field(flag).default(false),
  /** `auto` takes a CUDA device where there is one. */
  device: field(deviceName).default('auto'),
  /** Default: the processors that this process may use. */
  threads: field(threadCount).optional(),
  log: log.prefault({}),
  checkpoints: checkpoints.prefault({}),
  /** Steps in a row whose loss or gradients are not finite, before training stops. */
  maxSkippedSteps: countOrZero.default(10),
});
