import type { Value } from '../graph/graph.js';
import { concatRows, patchEmbedding } from '../graph/operators.js';
import { layerNorm, mlp, selfAttention } from '../nn/layers.js';
import type { Scope } from '../nn/scope.js';
import type { ClipVisionConfig } from '../io/config.js';

const projections = { q: 'q_proj', k: 'k_proj', v: 'v_proj', out: 'out_proj' } as const;

/** Tokens of one image: the class token and the patches. */
export function tokensPerImage(config: ClipVisionConfig): number {
  return 1 + Math.floor(config.imageSize / config.patchSize) ** 2;
}

/** x += attention(norm(x)); x += mlp(norm(x)) */
function encoderLayer(w: Scope, config: ClipVisionConfig, x: Value, sequences: number): Value {
  const norm = { epsilon: config.layerNormEps, output: w.dtype };
  const heads = config.numAttentionHeads;
  x = selfAttention(w.at('self_attn'), projections, layerNorm(w.at('layer_norm1'), x, norm), x, { heads, sequences });
  return mlp(w.at('mlp'), layerNorm(w.at('layer_norm2'), x, norm), config.intermediateSize, config.hiddenAct, x);
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
export function clipVision(w: Scope, config: ClipVisionConfig, pixels: Value, feature: ClipVisionFeature): Value {
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
  for (let i = 0; i < layers; i++) x = encoderLayer(w.at('encoder').at('layers').at(i), config, x, images);
  if (feature !== 'pooled') return x;

  const classRows = w.graph.input('class_rows', 'i32', [images]);
  const imageOffsets = w.graph.input('image_offsets', 'i32', [images + 1]);
  return layerNorm(w.at('post_layernorm'), concatRows(x, classRows, imageOffsets, images), { epsilon: layerNormEps });
}
