import type { Value } from '../graph/graph.js';
import { concatRows } from '../graph/operators.js';
import { crossAttention, layerNorm, mlp, selfAttention } from '../nn/layers.js';
import type { Scope } from '../nn/scope.js';
import type { OmniIdEncoderConfig } from '../io/config.js';

const projections = { q: 'to_q', k: 'to_k', v: 'to_v', out: 'to_out' } as const;

/**
 * The head of the Omni-ID encoder, ℓ = E(X) (paper, section 3.1 and figure 3): learned queries gather what all of a person's photos
 * tell, by cross-attention to the features of all of them, and settle it by self-attention.
 *
 * Blocks are pre-norm: x += attn(norm_q(x), norm_kv(z)); x += mlp(norm_mlp(x)), then x += attn(norm(x)); x += mlp(norm_mlp(x)).
 * @param w scope of the whole encoder
 * @param features f32 [rows, vision width], of all photos
 * @param photos for every identity, which rows of `features` are its photos': `starts` i32 [identities], `offsets` i32 [identities + 1]
 *   rising to `rows`
 * @returns f32 [identities · L, C]
 */
export function omniEncoder(
  w: Scope,
  config: OmniIdEncoderConfig,
  features: Value,
  identities: number,
  photos: { starts: Value; offsets: Value; rows: number },
): Value {
  const { tokens, width, heads, layerNormEps: epsilon } = config;
  const hidden = Math.round(width * config.mlpRatio);
  const graph = w.graph;
  const compute = { epsilon, output: w.dtype };

  // z: the features of each identity's photos behind each other; x: the same queries for every identity.
  const z = concatRows(features, photos.starts, photos.offsets, photos.rows);
  const queryOffsets = graph.input('query_offsets', 'i32', [identities + 1]);
  const queryStarts = graph.input('query_starts', 'i32', [identities]);
  let x = concatRows(w.vector('queries', [tokens, width]), queryStarts, queryOffsets, identities * tokens);

  for (let i = 0; i < config.crossBlocks; i++) {
    const b = w.at('cross_blocks').at(i);
    x = crossAttention(
      b.at('attn'),
      projections,
      layerNorm(b.at('norm_q'), x, compute),
      layerNorm(b.at('norm_kv'), z, compute),
      x,
      { heads, sequences: identities, offsets: { queries: queryOffsets, keys: photos.offsets } },
    );
    x = mlp(b.at('mlp'), layerNorm(b.at('norm_mlp'), x, compute), hidden, 'gelu', x);
  }
  for (let i = 0; i < config.selfBlocks; i++) {
    const b = w.at('self_blocks').at(i);
    x = selfAttention(b.at('attn'), projections, layerNorm(b.at('norm'), x, compute), x, {
      heads,
      sequences: identities,
    });
    x = mlp(b.at('mlp'), layerNorm(b.at('norm_mlp'), x, compute), hidden, 'gelu', x);
  }
  return layerNorm(w.at('norm_out'), x, { epsilon });
}
