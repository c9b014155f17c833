import { Graph, type Value, type WeightUse } from '../graph/graph.js';
import { patchGather, patchScatter } from '../graph/operators.js';
import { translated } from '../graph/session.js';
import type { MtdConfig } from '../io/mtd_config.js';
import { layerNorm, linear } from '../nn/layers.js';
import { queryBlocks, type QueryBlocksConfig } from '../nn/query_blocks.js';
import { Scope } from '../nn/scope.js';

export interface MaskedTransformerDecoderConfig extends QueryBlocksConfig {
  /** Side of the target, in pixels: a multiple of the patch. */
  readonly imageSize: number;
  readonly patchSize: number;
  readonly width: number;
}

/** Patches of a target. */
export function patchesPerTarget(config: { imageSize: number; patchSize: number }): number {
  return Math.floor(config.imageSize / config.patchSize) ** 2;
}

/**
 * The masked transformer decoder, D(ℓ, x̃) (paper, section 3.3 and equation 4): the encoder's blocks, but its queries come from a target of which
 * only a few patches are visible, and keys and values from ℓ. Only visible patches are ever read and embedded.
 * @param w scope of the decoder: `patch_embed`, `mask_token`, `pos_embed`, `cross_blocks`, `self_blocks`, `norm_out`, `head`
 * @param tokens ℓ, f32 [identities · L, C]
 * @param targets f32 [targets, 3, size, size], as many for each identity and in the identities' order
 * @param visible i32 [targets · visible patches], rows of a target together
 * @returns f32 [targets · patches, 3 · patch²]: all pixels of all patches, in the order [y][x][channel] as in MAE
 */
export function maskedTransformerDecoder(
  w: Scope,
  config: MaskedTransformerDecoderConfig,
  tokens: Value,
  targets: Value,
  visible: Value,
  identities: number,
): Value {
  const { patchSize, width, layerNormEps: epsilon } = config;
  const patches = patchesPerTarget(config);
  const seen = linear(
    w,
    'patch_embed',
    patchGather(targets, visible, { patch: patchSize, output: w.dtype }),
    width,
  );
  const x = patchScatter(
    seen,
    visible,
    w.vector('mask_token', [width]),
    w.vector('pos_embed', [patches, width]),
    targets.rows,
  );
  // An identity's targets share its ℓ: their queries are one sequence, which reads keys and values once.
  const y = queryBlocks(w, config, x, tokens, { cross: identities, self: targets.rows });
  return linear(
    w,
    'head',
    layerNorm(w.at('norm_out'), y, { epsilon, output: w.dtype }),
    3 * patchSize * patchSize,
  );
}

/**
 * The graph of a decoder for targets of several identities, equally many of each.
 * @param length L, tokens of an identity
 * @param visible patches of a target that are visible
 */
export function mtdGraph(
  config: MtdConfig,
  dtype: 'f32' | 'bf16',
  identities: number,
  targets: number,
  length: number,
  visible: number,
): Graph {
  const graph = new Graph();
  const count = identities * targets;
  const { imageSize, tokenWidth } = config;
  const tokens = graph.input('tokens', 'f32', [identities * length, tokenWidth]);
  const pixels = graph.input('targets', 'f32', [count, 3, imageSize, imageSize]);
  const patches = graph.input('visible', 'i32', [count * visible]);
  graph.output(
    'prediction',
    maskedTransformerDecoder(new Scope(graph, dtype), config, tokens, pixels, patches, identities),
  );
  return graph;
}

/** Every weight of a decoder, by its published name. */
export function mtdWeights(config: MtdConfig): ReadonlyMap<string, WeightUse> {
  return translated(() => mtdGraph(config, 'f32', 1, 1, 1, 1)).weights;
}
