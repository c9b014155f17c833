import { z } from 'zod';
import { layers, parsed, size, triple } from './schema.js';

/** The masked transformer decoder as a folder holds it: its sizes, and what its targets were made with in training. */
export interface MtdConfig {
  /** Side of the target, in pixels: a multiple of the patch. */
  readonly imageSize: number;
  /** Side of a patch, in pixels. */
  readonly patchSize: number;
  readonly width: number;
  /** Heads of attention in all blocks; they divide `width`. */
  readonly heads: number;
  /** Width inside the MLPs, in widths. */
  readonly mlpRatio: number;
  /** Blocks whose queries attend to ℓ. */
  readonly crossBlocks: number;
  /** Blocks in which the patches attend to each other, after the cross-attention ones. */
  readonly selfBlocks: number;
  readonly layerNormEps: number;
  /** C, the width of the identity tokens. */
  readonly tokenWidth: number;
  /** Share of a target's patches that the decoder did not see in training, above 0 and below 1. */
  readonly maskRatio: number;
  /** What pixels from 0 to 1 were normalised with, for each of R, G and B. */
  readonly imageMean: readonly [number, number, number];
  readonly imageStd: readonly [number, number, number];
}

const pixels = size.max(16_384);

const schema = z
  .strictObject({
    model_type: z.literal('omni_id_mtd', { error: 'expected "omni_id_mtd"' }),
    image_size: pixels,
    patch_size: pixels,
    width: size,
    heads: size,
    mlp_ratio: z.number().positive().max(64),
    cross_blocks: layers,
    self_blocks: layers,
    layer_norm_eps: z.number().min(0).max(1),
    token_width: size,
    mask_ratio: z.number().gt(0, { error: 'must be above 0' }).lt(1, { error: 'must be below 1' }),
    image_mean: triple,
    image_std: triple.refine((values) => values.every((value) => value > 0), { error: 'must be positive' }),
  })
  .refine((c) => c.image_size % c.patch_size === 0, { error: 'image_size must be a multiple of patch_size' })
  .refine((c) => c.width % c.heads === 0, { error: 'width must be a multiple of heads' });

/** The fields of a config as callers give it; their values are checked by the schema of the file. */
const given = z.strictObject({
  imageSize: z.number(),
  patchSize: z.number(),
  width: z.number(),
  heads: z.number(),
  mlpRatio: z.number(),
  crossBlocks: z.number(),
  selfBlocks: z.number(),
  layerNormEps: z.number(),
  tokenWidth: z.number(),
  maskRatio: z.number(),
  imageMean: triple,
  imageStd: triple,
});

const what = 'a masked transformer decoder';

/** @throws {ConfigError} `ERR_CONFIG` listing every problem, also unknown fields */
export function parseMtdConfig(json: unknown, name: string): MtdConfig {
  const c = parsed(schema, json, name, what);
  return {
    imageSize: c.image_size,
    patchSize: c.patch_size,
    width: c.width,
    heads: c.heads,
    mlpRatio: c.mlp_ratio,
    crossBlocks: c.cross_blocks,
    selfBlocks: c.self_blocks,
    layerNormEps: c.layer_norm_eps,
    tokenWidth: c.token_width,
    maskRatio: c.mask_ratio,
    imageMean: c.image_mean,
    imageStd: c.image_std,
  };
}

/** What {@link parseMtdConfig} reads. */
export function mtdConfigToJson(c: MtdConfig): Record<string, unknown> {
  return {
    model_type: 'omni_id_mtd',
    image_size: c.imageSize,
    patch_size: c.patchSize,
    width: c.width,
    heads: c.heads,
    mlp_ratio: c.mlpRatio,
    cross_blocks: c.crossBlocks,
    self_blocks: c.selfBlocks,
    layer_norm_eps: c.layerNormEps,
    token_width: c.tokenWidth,
    mask_ratio: c.maskRatio,
    image_mean: c.imageMean,
    image_std: c.imageStd,
  };
}

/**
 * A config from a caller, checked like one from a file.
 * @throws {ConfigError} `ERR_CONFIG` listing every problem
 */
export function checkMtdConfig(config: unknown): MtdConfig {
  const name = 'the config';
  return parseMtdConfig(mtdConfigToJson(parsed(given, config, name, what)), name);
}
