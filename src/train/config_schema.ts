import { z } from 'zod';
import { mostPeople, mostRenderedPixels, mostViews } from '../data/rendered.js';
import { viewFields } from '../data/view_options.js';
import { expectedDevice, isDeviceName, type DeviceName } from '../graph/devices.js';
import { layers, size } from '../io/schema.js';
import { presets, type PresetName } from '../models/presets.js';
import { describe } from '../options.js';

/**
 * The training configuration as a file has it: every field with its default, which is ours where the paper is silent. What is unknown is refused by name. Fields whose
 * default depends on others (the encoder's sizes, the decoders' widths) are filled in by `parseTrainingConfig`.
 */

/** An object whose unknown keys are named in the error, beside those that it knows. */
export function strict<T extends z.ZodRawShape>(shape: T): z.ZodObject<T, z.core.$strict> {
  const known = Object.keys(shape).join(', ');
  return z.strictObject(shape, {
    error: (issue) => {
      if (issue.code !== 'unrecognized_keys') return undefined;
      const keys = issue.keys.map((key) => JSON.stringify(key)).join(', ');
      return `unknown field ${keys}, expected ${known}`;
    },
  });
}

const pixels = size.max(16_384);
const positive = z.number().positive();
const fraction = z.number().gt(0).lt(1);
const share = z.number().min(0).max(1);
const count = z.number().int().min(1).max(1_000_000_000);
/** @param why there are no more */
const bounded = (most: number, why: string) =>
  z
    .number()
    .int()
    .min(1)
    .max(most, { error: `expected at most ${most}: ${why}` });
const countOrZero = z.number().int().min(0).max(1_000_000_000);
const seed = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const path = z.string().min(1);
const ratio = z.number().positive().max(64);
/** Globs of picomatch over whole parameter names, in which `*` matches dots too. */
const patterns = z.array(z.string().min(1));

const presetNames = Object.keys(presets) as PresetName[];

/** A preset by name, or a preset and what is different from it. */
const encoder = z.preprocess(
  (value) => (typeof value === 'string' ? { preset: value } : value),
  strict({
    preset: z
      .enum(presetNames, {
        error: ({ input }) => `unknown preset ${describe(input)}, expected one of ${presetNames.join(', ')}`,
      })
      .default('nano'),
    /** CLIP's vision tower. With another `hiddenSize`, MLPs keep the preset's ratio and heads their width, unless they are given. */
    vision: strict({
      hiddenSize: size.optional(),
      intermediateSize: size.optional(),
      numHiddenLayers: size.max(10_000).optional(),
      numAttentionHeads: size.optional(),
      imageSize: pixels.optional(),
      patchSize: pixels.optional(),
      numChannels: z.literal(3).optional(),
      hiddenAct: z.enum(['gelu', 'quick_gelu']).optional(),
      layerNormEps: share.optional(),
    }).prefault({}),
    /** Default: CLIP's, at the tower's image size. */
    imageProcessor: strict({
      shortestEdge: pixels,
      cropSize: pixels,
      rescaleFactor: positive,
      mean: z.tuple([z.number(), z.number(), z.number()]),
      std: z.tuple([positive, positive, positive]),
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
    features: z.enum(['last_hidden_state', 'penultimate']).optional(),
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
  maskRatio: fraction.default(0.95),
});

const decoder = z.discriminatedUnion('type', [mtd], { error: 'expected an object whose type is "mtd"' });

const heldOut = {
  /** Identities that are kept out of training; 0 for none. */
  identities: z
    .number()
    .int()
    .min(0)
    .max(mostPeople, { error: `expected at most ${mostPeople}: people are listed in memory` })
    .default(64),
};
const dataCommon = {
  /** Batches that are made ready ahead of the engine, at most. */
  prefetch: z.number().int().min(1).max(1024).default(3),
  /** Photos of a step that are read at once. Default: 3. */
  workers: z.number().int().min(1).max(1024).optional(),
};
const stored = strict({
  ...heldOut,
  /** Another data set to take them from. Default: the last ones of this one. */
  path: path.optional(),
}).prefault({});

const data = z.discriminatedUnion(
  'kind',
  [
    /** A folder of identity folders. */
    strict({ kind: z.literal('folder'), path, heldOut: stored, ...dataCommon }),
    /** A folder of WebDataset tar shards. */
    strict({ kind: z.literal('shards'), path, heldOut: stored, ...dataCommon }),
    /** People and views rendered from seeds, once, before the first step: needs no files. */
    strict({
      kind: z.literal('rendered'),
      identities: bounded(mostPeople, 'people are listed in memory').default(2000),
      views: bounded(mostViews, 'the views of a person are listed in memory').default(12),
      /** Seed of the first person. Held-out people have seeds of their own (`heldOutSeed`), which these must not reach. */
      firstSeed: seed.default(0),
      /** Side of the pictures, in pixels. Default: the largest image size of encoder and decoders. */
      size: pixels
        .max(mostRenderedPixels, { error: `at most ${mostRenderedPixels} pixels are rendered` })
        .optional(),
      /** What of the views is chosen instead of drawn: `crop`, `poseSpread`, `jitter` and so on, as `RenderedDataset` takes them. Of held-out people too. */
      view: strict(viewFields).prefault({}),
      /** Folder that rendered pictures are kept in, which runs may share. Default: `data` in the run's folder. */
      cache: path.optional(),
      heldOut: strict(heldOut).prefault({}),
      ...dataCommon,
    }),
  ],
  { error: 'expected an object whose kind is "folder", "shards" or "rendered"' },
);

/** Few-to-many sampling (paper, section 3.3). */
const sampling = strict({
  /** Identities in a step, over all of its micro-batches. Of fewer in the data some come several times, with photos drawn anew. */
  identities: count.max(65_536).default(4),
  /** S, the photos that ℓ is made from; [fewest, most] draws their number anew for every step. */
  inputs: z
    .preprocess(
      (value) => (typeof value === 'number' ? [value, value] : value),
      z.tuple([count.max(4096), count.max(4096)], { error: 'expected a whole number or [fewest, most]' }),
    )
    .prefault(3),
  /** R, the photos that are rebuilt. */
  targets: count.max(4096).default(8),
  /** Whether a photo that ℓ is made from may be rebuilt too, as in the paper. */
  targetsMayIncludeInputs: z.boolean().default(true),
  /** Probability that an image is mirrored, with its mask. */
  flip: share.default(0.5),
});

/** AdamW (Loshchilov and Hutter 2019). Rates are ours: the paper names none. */
const optimizer = strict({
  /** Of new layers: the encoder's head and the decoders. */
  learningRate: positive.max(1e38).default(3e-4),
  /** Of the vision tower. Default: the same. */
  backboneLearningRate: positive.max(1e38).optional(),
  betas: z.tuple([share.lt(1), share.lt(1)]).default([0.9, 0.95]),
  epsilon: positive.default(1e-8),
  /** Decoupled; none on vectors and on what `noDecay` matches. */
  weightDecay: z.number().min(0).max(1).default(0.05),
  /** Largest norm of all gradients together; null does not clip. */
  clipGradNorm: positive.nullable().default(1),
  /** Decay of the moving average of the weights per step, less in the first ones; null keeps none. */
  emaDecay: share.lt(1).nullable().default(0.999),
  warmupSteps: countOrZero.default(500),
  schedule: z.enum(['cosine', 'constant']).default('cosine'),
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
  imagesEvery: count.nullable().default(1000),
  /** Steps between evaluations on held-out identities; null for none. */
  evaluateEvery: count.nullable().default(500),
  /** Whether TensorBoard event files are written too. */
  tensorboard: z.boolean().default(true),
});

const checkpoints = strict({
  /** Steps between checkpoints. */
  every: count.default(1000),
  /** How many of the last ones are kept. */
  keepLast: count.default(3),
  /** Whether the one with the lowest held-out loss is kept too. */
  best: z.boolean().default(true),
});

export const trainingSchema = strict({
  encoder: encoder.prefault({}),
  /** Folder of a CLIP model that the vision tower starts from, as in the paper; its config takes the place of `encoder.vision`. */
  clip: path.optional(),
  /** One or several; their losses are added by weight. */
  decoders: z
    .array(decoder)
    .min(1, { error: 'expected at least one decoder' })
    .prefault([{ type: 'mtd' }]),
  data: data.prefault({ kind: 'rendered' }),
  sampling: sampling.prefault({}),
  optimizer: optimizer.prefault({}),
  /** Optimizer steps in all. The paper's first stage has 250,000. */
  steps: count.default(250_000),
  /** Micro-batches that a step is split into, to fit into memory. */
  accumulation: count.max(65_536).default(1),
  /** What products are computed in; weights, moments and sums are f32 in both. */
  dtype: z.enum(['bf16', 'f32']).default('bf16'),
  /** Of everything random: weights, sampling, masks, flips. */
  seed: seed.default(0),
  /** Activations of blocks are computed again in the backward pass instead of kept. The result is the same, bit for bit. */
  checkpointing: z.boolean().default(false),
  /** `auto` takes a CUDA device where there is one. */
  device: z
    .custom<DeviceName>(isDeviceName, {
      error: ({ input }) => `is ${describe(input)}, expected ${expectedDevice}`,
    })
    .default('auto'),
  /** Default: the processors that this process may use. */
  threads: z.number().int().min(1).max(1024).optional(),
  log: log.prefault({}),
  checkpoints: checkpoints.prefault({}),
  /** Steps in a row whose loss or gradients are not finite, before training stops. */
  maxSkippedSteps: countOrZero.default(10),
});
