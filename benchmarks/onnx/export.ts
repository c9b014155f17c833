import { tokensPerImage } from '../../src/models/clip_vision.js';
import type { ClipVisionConfig, OmniIdEncoderConfig } from '../../src/io/config.js';
import type { Part } from '../contestants/protocol.js';
import type { Onnx } from '../peers/modules.js';
import { attribute, OnnxBuilder } from './builder.js';

interface Heads {
  readonly sequences: number;
  readonly queries: number;
  readonly keys: number;
  readonly heads: number;
  readonly headDim: number;
}

/** softmax(q · kᵀ / sqrt(headDim)) · v for q [sequences · queries, heads · headDim], k and v [sequences · keys, …]. */
function attention(b: OnnxBuilder, q: string, k: string, v: string, size: Heads): string {
  const { sequences, queries, keys, heads, headDim } = size;
  const split = (x: string, tokens: number, order: readonly number[]): string =>
    b.transpose(b.reshape(x, [sequences, tokens, heads, headDim]), order);
  const scaled = b.op('Mul', [split(q, queries, [0, 2, 1, 3]), b.number(1 / Math.sqrt(headDim))]);
  const scores = b.op('MatMul', [scaled, split(k, keys, [0, 2, 3, 1])]);
  const weights = b.op('Softmax', [scores], [attribute.int('axis', -1)]);
  const attended = b.op('MatMul', [weights, split(v, keys, [0, 2, 1, 3])]);
  return b.reshape(b.transpose(attended, [0, 2, 1, 3]), [sequences * queries, heads * headDim]);
}

function activated(b: OnnxBuilder, x: string, activation: 'gelu' | 'quick_gelu'): string {
  if (activation === 'gelu') return b.op('Gelu', [x]);
  return b.op('Mul', [x, b.op('Sigmoid', [b.op('Mul', [x, b.number(1.702)])])]);
}

/** residual + fc2(activation(fc1(x))) */
function mlp(
  b: OnnxBuilder,
  x: string,
  prefix: string,
  activation: 'gelu' | 'quick_gelu',
  residual: string,
): string {
  return b.op('Add', [
    residual,
    b.linear(activated(b, b.linear(x, `${prefix}.fc1`), activation), `${prefix}.fc2`),
  ]);
}

/** One layer of CLIP's tower on x [images · tokens, width], as `encoderLayer` of src/models/clip_vision.ts. */
function clipLayer(
  b: OnnxBuilder,
  config: ClipVisionConfig,
  x: string,
  layer: number,
  images: number,
): string {
  const { hiddenSize, numAttentionHeads: heads, layerNormEps } = config;
  const tokens = tokensPerImage(config);
  const prefix = `vision_model.encoder.layers.${layer}`;
  const normed = b.layerNorm(x, `${prefix}.layer_norm1`, layerNormEps);
  const [q, k, v] = ['q_proj', 'k_proj', 'v_proj'].map((name) =>
    b.linear(normed, `${prefix}.self_attn.${name}`),
  ) as [string, string, string];
  const attended = attention(b, q, k, v, {
    sequences: images,
    queries: tokens,
    keys: tokens,
    heads,
    headDim: hiddenSize / heads,
  });
  x = b.op('Add', [x, b.linear(attended, `${prefix}.self_attn.out_proj`)]);
  return mlp(b, b.layerNorm(x, `${prefix}.layer_norm2`, layerNormEps), `${prefix}.mlp`, config.hiddenAct, x);
}

/** CLIP's tower from pixels [images, 3, size, size] to [images · tokens, width]. */
function clipVision(b: OnnxBuilder, config: ClipVisionConfig, images: number): string {
  const { hiddenSize: width, patchSize, layerNormEps } = config;
  const tokens = tokensPerImage(config);
  const embeddings = 'vision_model.embeddings';
  const sizes = [patchSize, patchSize];
  const patches = b.op(
    'Conv',
    [onnxNames.input, b.weight(`${embeddings}.patch_embedding.weight`)],
    [attribute.ints('kernel_shape', sizes), attribute.ints('strides', sizes)],
  );
  const rows = b.transpose(b.reshape(patches, [images, width, tokens - 1]), [0, 2, 1]);
  const classToken = b.op('Expand', [
    b.weight(`${embeddings}.class_embedding`),
    b.integers([images, 1, width]),
  ]);
  const all = b.op('Concat', [classToken, rows], [attribute.int('axis', 1)]);
  const placed = b.op('Add', [all, b.weight(`${embeddings}.position_embedding.weight`)]);
  let x = b.layerNorm(b.reshape(placed, [images * tokens, width]), 'vision_model.pre_layrnorm', layerNormEps);
  for (let i = 0; i < config.numHiddenLayers; i++) x = clipLayer(b, config, x, i, images);
  return x;
}

/** The head of the encoder for one identity, from z [rows, vision width] to [L, C], as src/models/omni_encoder.ts. */
function omniEncoder(b: OnnxBuilder, config: OmniIdEncoderConfig, z: string, rows: number): string {
  const { tokens, width, heads, layerNormEps } = config;
  const size = { sequences: 1, queries: tokens, heads, headDim: width / heads };
  const attend = (prefix: string, from: string, to: string, keys: number, residual: string): string => {
    const project = (name: string, x: string): string => b.linear(x, `${prefix}.${name}`);
    const attended = attention(b, project('to_q', from), project('to_k', to), project('to_v', to), {
      ...size,
      keys,
    });
    return b.op('Add', [residual, project('to_out', attended)]);
  };
  const norm = (x: string, name: string): string => b.layerNorm(x, name, layerNormEps);
  let x = b.op('Identity', [b.weight('queries')]);
  for (let i = 0; i < config.crossBlocks; i++) {
    const block = `cross_blocks.${i}`;
    x = attend(`${block}.attn`, norm(x, `${block}.norm_q`), norm(z, `${block}.norm_kv`), rows, x);
    x = mlp(b, norm(x, `${block}.norm_mlp`), `${block}.mlp`, 'gelu', x);
  }
  for (let i = 0; i < config.selfBlocks; i++) {
    const block = `self_blocks.${i}`;
    const normed = norm(x, `${block}.norm`);
    x = attend(`${block}.attn`, normed, normed, tokens, x);
    x = mlp(b, norm(x, `${block}.norm_mlp`), `${block}.mlp`, 'gelu', x);
  }
  return norm(x, 'norm_out');
}

/** What an exported model's input and output are called. */
export const onnxNames = { input: 'pixel_values', output: 'result' } as const;

/**
 * Writes a part of the encoder as an ONNX model for `images` photos of one identity; the batch is fixed, so that the runtime can plan its memory for it.
 * @param weightsFile safetensors in f32 with published names, beside which `path` must lie
 */
export async function exportOnnx(
  onnx: Onnx,
  path: string,
  weightsFile: string,
  config: OmniIdEncoderConfig,
  part: Part,
  images: number,
): Promise<void> {
  const b = await OnnxBuilder.open(weightsFile);
  const { vision } = config;
  const rows = images * tokensPerImage(vision);
  const { input, output } = onnxNames;
  const pixels = { name: input, shape: [images, vision.numChannels, vision.imageSize, vision.imageSize] };
  const features = [images, tokensPerImage(vision), vision.hiddenSize];
  const finish = async (x: string, from: typeof pixels, shape: number[]): Promise<void> => {
    b.reshape(x, shape, output);
    await b.write(path, onnx, from, { name: output, shape });
  };
  if (part === 'block') {
    const x = b.reshape(input, [rows, vision.hiddenSize]);
    await finish(clipLayer(b, vision, x, 0, images), { name: input, shape: features }, features);
  } else if (part === 'features') {
    await finish(clipVision(b, vision, images), pixels, features);
  } else {
    const z = clipVision(b, vision, images);
    await finish(omniEncoder(b, config, z, rows), pixels, [1, config.tokens, config.width]);
  }
}
