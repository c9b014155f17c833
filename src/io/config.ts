import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { ConfigError, FileError, messageOf } from '../errors.js';
import { field, flag, number, oneOf, strict } from '../kinds.js';
import { isFile } from './files.js';
import {
  defaultImageProcessor,
  imageProcessorToJson,
  preprocessor,
  processorFrom,
  type ImageProcessorConfig,
} from './image_processor.js';
import { depth, layers, multiple, only, parsed, pixels, ratio, share, size, triple } from './schema.js';

/** CLIP's vision tower. The fields are those of transformers' `CLIPVisionConfig`. */
export interface ClipVisionConfig {
  /** Width of the residual stream: 1280 in ViT-H/14. */
  readonly hiddenSize: number;
  /** Width inside the MLPs. */
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  /** Heads of attention; they divide `hiddenSize`. */
  readonly numAttentionHeads: number;
  /** Side of the square input, in pixels. */
  readonly imageSize: number;
  /** Side of a patch, in pixels. */
  readonly patchSize: number;
  /** Always 3, RGB. */
  readonly numChannels: 3;
  /** Exact GELU, or x·sigmoid(1.702 x), with which OpenAI's models were trained. */
  readonly hiddenAct: 'gelu' | 'quick_gelu';
  readonly layerNormEps: number;
}

/** The Omni-ID encoder: CLIP's vision tower and the head that turns the features of all photos into `tokens` tokens of `width`. */
export interface OmniIdEncoderConfig {
  readonly vision: ClipVisionConfig;
  readonly imageProcessor: ImageProcessorConfig;
  /** L, the number of identity tokens. */
  readonly tokens: number;
  /** C, their width. */
  readonly width: number;
  /** Heads of attention in all blocks; they divide `width`. */
  readonly heads: number;
  /** Width inside the MLPs, in widths. */
  readonly mlpRatio: number;
  /** Blocks whose queries attend to the photos' features. */
  readonly crossBlocks: number;
  /** Blocks in which the tokens attend to each other, after the cross-attention ones. */
  readonly selfBlocks: number;
  readonly layerNormEps: number;
  /** Which of CLIP's hidden states the head reads. */
  readonly features: 'last_hidden_state' | 'penultimate';
}

/** Defaults are those of transformers' `CLIPVisionConfig`, which its `config.json` may leave out. */
const hfVision = z
  .object({
    hidden_size: size.default(768),
    intermediate_size: size.default(3072),
    num_hidden_layers: depth.default(12),
    num_attention_heads: size.default(12),
    num_channels: only(3).default(3),
    image_size: pixels.default(224),
    patch_size: size.default(32),
    hidden_act: field(oneOf('gelu', 'quick_gelu')).default('quick_gelu'),
    layer_norm_eps: share.default(1e-5),
  })
  .refine(...multiple('hidden_size', 'num_attention_heads'))
  .refine((c) => c.patch_size <= c.image_size, {
    path: ['patch_size'],
    error: ({ input }) => {
      const { patch_size, image_size } = input as { patch_size: number; image_size: number };
      return `is ${patch_size}, expected at most image_size, which is ${image_size}`;
    },
  });

/** open_clip's `CLIPVisionCfg` and its defaults; towers other than the plain transformer have fields that are named here to be refused. */
const openClip = z.object({
  model_cfg: z.object({
    quick_gelu: field(flag).default(false),
    vision_cfg: z.object({
      layers: depth.default(12),
      width: size.default(768),
      head_width: size.default(64),
      mlp_ratio: ratio.default(4),
      patch_size: size.default(16),
      image_size: pixels.default(224),
      timm_model_name: z.undefined({ error: 'timm towers are not CLIP vision transformers' }).optional(),
      attentional_pool: only(false, 'attentional pooling is not supported').optional(),
      no_ln_pre: only(false, 'towers without ln_pre are not supported').optional(),
    }),
  }),
});

const encoder = z
  .object({
    L: size,
    c: size,
    heads: size,
    n_cross: layers,
    n_self: layers,
    ratio: ratio,
    layer_norm_eps: share.default(1e-5),
    features: field(oneOf('last_hidden_state', 'penultimate')).default('last_hidden_state'),
  })
  .refine(...multiple('c', 'heads'));

const count = field(number());

/** The fields of a config as callers give it; their values are checked by the schema of the file. */
const givenConfig = strict({
  vision: strict({
    hiddenSize: count,
    intermediateSize: count,
    numHiddenLayers: count,
    numAttentionHeads: count,
    imageSize: count,
    patchSize: count,
    numChannels: only(3),
    hiddenAct: field(oneOf('gelu', 'quick_gelu')),
    layerNormEps: count,
  }),
  imageProcessor: strict({
    shortestEdge: count,
    cropSize: count,
    rescaleFactor: count,
    mean: triple,
    std: triple,
  }),
  tokens: count,
  width: count,
  heads: count,
  mlpRatio: count,
  crossBlocks: count,
  selfBlocks: count,
  layerNormEps: count,
  features: field(oneOf('last_hidden_state', 'penultimate')),
});

const omniId = z.object({ encoder, vision: hfVision, image_processor: preprocessor.optional() });

function visionFrom(v: z.output<typeof hfVision>): ClipVisionConfig {
  return {
    hiddenSize: v.hidden_size,
    intermediateSize: v.intermediate_size,
    numHiddenLayers: v.num_hidden_layers,
    numAttentionHeads: v.num_attention_heads,
    imageSize: v.image_size,
    patchSize: v.patch_size,
    numChannels: 3,
    hiddenAct: v.hidden_act,
    layerNormEps: v.layer_norm_eps,
  };
}

/**
 * CLIP's vision tower from a `config.json` of `CLIPVisionModel` or `CLIPModel`, or from an `open_clip_config.json`.
 * @throws {ConfigError} `ERR_CONFIG` listing every problem
 */
export function parseClipVisionConfig(json: unknown, name: string): ClipVisionConfig {
  const object = parsed(z.record(z.string(), z.unknown()), json, name);
  if ('encoder' in object && 'vision' in object) {
    throw new ConfigError(
      `${name} describes an Omni-ID encoder, expected a CLIP model (OmniIdEncoder.load reads it)`,
    );
  }
  if ('model_cfg' in object) {
    const { quick_gelu, vision_cfg: v } = parsed(openClip, json, name).model_cfg;
    return visionFrom(
      parsed(
        hfVision,
        {
          hidden_size: v.width,
          intermediate_size: Math.floor(v.width * v.mlp_ratio),
          num_hidden_layers: v.layers,
          num_attention_heads: Math.floor(v.width / v.head_width),
          image_size: v.image_size,
          patch_size: v.patch_size,
          hidden_act: quick_gelu ? 'quick_gelu' : 'gelu',
        },
        name,
      ),
    );
  }
  return visionFrom(parsed(hfVision, 'vision_config' in object ? object['vision_config'] : json, name));
}

/** @throws {ConfigError} `ERR_CONFIG` listing every problem */
export function parseOmniIdConfig(json: unknown, name: string): OmniIdEncoderConfig {
  const { encoder: e, vision: v, image_processor: p } = parsed(omniId, json, name);
  const vision = visionFrom(v);
  return {
    vision,
    imageProcessor: p ? processorFrom(p, vision.imageSize, name) : defaultImageProcessor(vision.imageSize),
    tokens: e.L,
    width: e.c,
    heads: e.heads,
    mlpRatio: e.ratio,
    crossBlocks: e.n_cross,
    selfBlocks: e.n_self,
    layerNormEps: e.layer_norm_eps,
    features: e.features,
  };
}

/**
 * A config from a caller, checked like one from a file.
 * @throws {ConfigError} `ERR_CONFIG` listing every problem
 */
export function checkOmniIdConfig(config: unknown): OmniIdEncoderConfig {
  const name = 'the config';
  return parseOmniIdConfig(omniIdConfigToJson(parsed(givenConfig, config, name)), name);
}

/** The `vision` part of a saved config, which is also a Hugging Face `CLIPVisionModel` config. */
export function clipVisionConfigToJson(v: ClipVisionConfig): Record<string, unknown> {
  return {
    hidden_size: v.hiddenSize,
    intermediate_size: v.intermediateSize,
    num_hidden_layers: v.numHiddenLayers,
    num_attention_heads: v.numAttentionHeads,
    num_channels: v.numChannels,
    image_size: v.imageSize,
    patch_size: v.patchSize,
    hidden_act: v.hiddenAct,
    layer_norm_eps: v.layerNormEps,
  };
}

/** What {@link parseOmniIdConfig} reads. */
export function omniIdConfigToJson(c: OmniIdEncoderConfig): Record<string, unknown> {
  return {
    model_type: 'omni_id_encoder',
    encoder: {
      L: c.tokens,
      c: c.width,
      heads: c.heads,
      n_cross: c.crossBlocks,
      n_self: c.selfBlocks,
      ratio: c.mlpRatio,
      layer_norm_eps: c.layerNormEps,
      features: c.features,
    },
    vision: clipVisionConfigToJson(c.vision),
    image_processor: imageProcessorToJson(c.imageProcessor),
  };
}

/**
 * Reads a JSON file.
 * @throws {FileError} `ERR_FILE` when it cannot be read; {ConfigError} `ERR_CONFIG` when it is not JSON
 */
export async function readJson(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw new FileError(`cannot read ${path}: ${messageOf(error)}`, {
      cause: error,
    });
  }
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw new ConfigError(`${path} is not JSON: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** Whether JSON is the configuration of a training run, whose folder has a `config.json` as a model's has. */
export function isRunConfig(json: unknown): boolean {
  return typeof json === 'object' && json !== null && 'sampling' in json && 'optimizer' in json;
}

/**
 * The `config.json` of a model's folder.
 * @throws {FileError} `ERR_FILE`; {ConfigError} `ERR_CONFIG` when it is not JSON, or that of a training run
 */
export async function readModelConfig(folder: string): Promise<{ json: unknown; path: string }> {
  const path = join(folder, 'config.json');
  const json = await readJson(path);
  if (!isRunConfig(json)) return { json, path };
  const model = join(folder, 'model');
  throw new ConfigError(
    `${folder} is the folder of a training run: ` +
      ((await isFile(join(model, 'config.json')))
        ? `its model is in ${model}`
        : `its model will be in ${model} when it ends or is stopped`),
  );
}
