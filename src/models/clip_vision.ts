import { Graph, type Value, type WeightUse } from '../graph/graph.js';
import { concatRows, patchEmbedding } from '../graph/operators.js';
import { translated } from '../graph/session.js';
import { layerNorm, mlp, selfAttention } from '../nn/layers.js';
import { Scope } from '../nn/scope.js';
import type { ClipVisionConfig } from '../io/config.js';

const projections = { q: 'q_proj', k: 'k_proj', v: 'v_proj', out: 'out_proj' } as const;

/** Tokens of one image: the class token and the patches. */
export function tokensPerImage(config: ClipVisionConfig): number {
  return 1 + Math.floor(config.imageSize / config.patchSize) ** 2;
}

/** One layer of the tower: x += attention(norm(x)); x += mlp(norm(x)). Its scope is `vision_model.encoder.layers.{i}`. */
export function encoderLayer(w: Scope, config: ClipVisionConfig, x: Value, sequences: number): Value {
  const norm = { epsilon: config.layerNormEps, output: w.dtype };
  const heads = config.numAttentionHeads;
  x = selfAttention(w.at('self_attn'), projections, layerNorm(w.at('layer_norm1'), x, norm), x, {
    heads,
    sequences,
  });
  return mlp(
    w.at('mlp'),
    layerNorm(w.at('layer_norm2'), x, norm),
    config.intermediateSize,
    config.hiddenAct,
    x,
  );
}

/** What can be read from CLIP's vision tower, each [images · tokens, width] but `pooled`, [images, width]. */
export type ClipVisionFeature = 'last_hidden_state' | 'penultimate' | 'pooled';

/**
 * The vision tower of CLIP, as Hugging Face's `CLIPVisionModel` (transformers, modeling_clip.py).
 * @param w scope of `vision_model`
 * @param pixels f32 [images, 3, size, size], normalised
 * @returns the feature that was asked for. `last_hidden_state` is the output of the last layer, without a norm; `penultimate`
 *   the output of the layer before it; `pooled` the class token after `post_layernorm`.
 */
export function clipVision(
  w: Scope,
  config: ClipVisionConfig,
  pixels: Value,
  feature: ClipVisionFeature,
): Value {
  const { hiddenSize, patchSize, layerNormEps, numHiddenLayers } = config;
  const images = pixels.rows;
  const tokens = tokensPerImage(config);

  const e = w.at('embeddings');
  let x = patchEmbedding(
    pixels,
    e.matrix('patch_embedding.weight', [hiddenSize, config.numChannels, patchSize, patchSize]),
    e.vector('class_embedding', [hiddenSize]),
    e.vector('position_embedding.weight', [tokens, hiddenSize]),
  );
  x = layerNorm(w.at('pre_layrnorm'), x, { epsilon: layerNormEps });

  const layers = feature === 'penultimate' ? numHiddenLayers - 1 : numHiddenLayers;
  for (let i = 0; i < layers; i++) {
    const from = x;
    x = w.graph.recomputed(() => encoderLayer(w.at('encoder').at('layers').at(i), config, from, images));
  }
  if (feature !== 'pooled') return x;

  const classRows = w.graph.input('class_rows', 'i32', [images]);
  const imageOffsets = w.graph.input('image_offsets', 'i32', [images + 1]);
  return layerNorm(w.at('post_layernorm'), concatRows(x, classRows, imageOffsets, images), {
    epsilon: layerNormEps,
  });
}

/** A graph from `pixels` to `features`. */
export function clipVisionGraph(
  config: ClipVisionConfig,
  dtype: 'f32' | 'bf16',
  images: number,
  feature: ClipVisionFeature,
): Graph {
  const graph = new Graph();
  const { imageSize } = config;
  const pixels = graph.input('pixels', 'f32', [images, 3, imageSize, imageSize]);
  graph.output('features', clipVision(new Scope(graph, dtype).at('vision_model'), config, pixels, feature));
  return graph;
}

/** Every weight of the tower, by its published name: the pooled feature is the one that reads them all. */
export function clipVisionWeights(config: ClipVisionConfig): ReadonlyMap<string, WeightUse> {
  return translated(() => clipVisionGraph(config, 'f32', 1, 'pooled')).weights;
}
