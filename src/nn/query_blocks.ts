import type { Value } from '../graph/graph.js';
import { crossAttention, layerNorm, mlp, selfAttention } from './layers.js';
import type { Scope } from './scope.js';

const projections = { q: 'to_q', k: 'to_k', v: 'to_v', out: 'to_out' } as const;

/** Sizes of the blocks that the Omni-ID encoder and the masked transformer decoder share. */
export interface QueryBlocksConfig {
  readonly heads: number;
  /** Width of a block's MLP, in widths of the block. */
  readonly mlpRatio: number;
  readonly crossBlocks: number;
  readonly selfBlocks: number;
  readonly layerNormEps: number;
}

/**
 * Queries that gather from a context by cross-attention and settle what they found by self-attention (paper, section 3.1 and figure 3): blocks
 * `cross_blocks.{i}`, x += attn(norm_q(x), norm_kv(z)); x += mlp(norm_mlp(x)), then `self_blocks.{i}`, x += attn(norm(x)); x += mlp(norm_mlp(x)).
 * @param x [queries, width], f32; @param z [context rows, any width], f32
 * @param sequences how rows belong together: `cross` of queries and context, equal in length unless there are offsets; `self` of queries
 * @returns f32 [queries, width], before `norm_out`
 */
export function queryBlocks(
  w: Scope,
  config: QueryBlocksConfig,
  x: Value,
  z: Value,
  sequences: { cross: number; self: number; offsets?: { queries: Value; keys: Value } },
): Value {
  const { heads } = config;
  const hidden = Math.round(x.columns * config.mlpRatio);
  const norm = { epsilon: config.layerNormEps, output: w.dtype };
  const { offsets } = sequences;
  for (let i = 0; i < config.crossBlocks; i++) {
    const b = w.at('cross_blocks').at(i);
    const from = x;
    x = w.graph.recomputed(() => {
      const y = crossAttention(
        b.at('attn'),
        projections,
        layerNorm(b.at('norm_q'), from, norm),
        layerNorm(b.at('norm_kv'), z, norm),
        from,
        { heads, sequences: sequences.cross, ...(offsets ? { offsets } : {}) },
      );
      return mlp(b.at('mlp'), layerNorm(b.at('norm_mlp'), y, norm), hidden, 'gelu', y);
    });
  }
  for (let i = 0; i < config.selfBlocks; i++) {
    const b = w.at('self_blocks').at(i);
    const from = x;
    x = w.graph.recomputed(() => {
      const y = selfAttention(b.at('attn'), projections, layerNorm(b.at('norm'), from, norm), from, {
        heads,
        sequences: sequences.self,
      });
      return mlp(b.at('mlp'), layerNorm(b.at('norm_mlp'), y, norm), hidden, 'gelu', y);
    });
  }
  return x;
}
