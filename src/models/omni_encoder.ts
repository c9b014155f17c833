import type { Value } from '../graph/graph.js';
import { concatRows } from '../graph/operators.js';
import { layerNorm } from '../nn/layers.js';
import { queryBlocks } from '../nn/query_blocks.js';
import type { Scope } from '../nn/scope.js';
import type { OmniIdEncoderConfig } from '../io/config.js';

/**
 * The head of the Omni-ID encoder, ℓ = E(X) (paper, section 3.1 and figure 3): learned queries gather what all of a person's photos
 * tell, by cross-attention to the features of all of them, and settle it by self-attention (`src/nn/query_blocks.ts`).
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
  const { tokens, width } = config;
  const graph = w.graph;

  // z: the features of each identity's photos behind each other; x: the same queries for every identity.
  const z = concatRows(features, photos.starts, photos.offsets, photos.rows);
  const queryOffsets = graph.input('query_offsets', 'i32', [identities + 1]);
  const queryStarts = graph.input('query_starts', 'i32', [identities]);
  const queries = w.vector('queries', [tokens, width]);
  const x = queryBlocks(w, config, concatRows(queries, queryStarts, queryOffsets, identities * tokens), z, {
    cross: identities,
    self: identities,
    offsets: { queries: queryOffsets, keys: photos.offsets },
  });
  return layerNorm(w.at('norm_out'), x, { epsilon: config.layerNormEps });
}
