import { field, maskRatio, number, strict } from '../kinds.js';
import {
  layers,
  multiple,
  only,
  parsed,
  pixels,
  positiveTriple,
  ratio,
  share,
  size,
  triple,
} from './schema.js';

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

const schema = strict({
  model_type: only('omni_id_mtd'),
  image_size: pixels,
  patch_size: pixels,
  width: size,
  heads: size,
  mlp_ratio: ratio,
  cross_blocks: layers,
  self_blocks: layers,
  layer_norm_eps: share,
  token_width: size,
  mask_ratio: field(maskRatio),
  image_mean: triple,
  image_std: positiveTriple,
})
  .refine(...multiple('image_size', 'patch_size'))
  .refine(...multiple('width', 'heads'));

const anyNumber = field(number());

/** The fields of a config as callers give it; their values are checked by the schema of the file. */
const given = strict({
  imageSize: anyNumber,
  patchSize: anyNumber,
  width: anyNumber,
  heads: anyNumber,
  mlpRatio: anyNumber,
  crossBlocks: anyNumber,
  selfBlocks: anyNumber,
  layerNormEps: anyNumber,
  tokenWidth: anyNumber,
  maskRatio: anyNumber,
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
