import type { Value } from './graph.js';

/** What follows a matrix product: `gelu` is exact (erf), `quick_gelu` is x·sigmoid(1.702 x). */
export type Activation = 'none' | 'gelu' | 'quick_gelu';

type ComputeType = 'f32' | 'bf16';

function only(values: Value[]): Value {
  const [value] = values;
  if (value === undefined) throw new Error('an operator without outputs');
  return value;
}

/**
 * activation(x · weightᵀ + bias) + residual, in one pass.
 * @param x [rows, inputs]
 * @param weight [outputs, inputs]; its dtype is the type that the product is computed in
 */
export function linear(
  x: Value,
  weight: Value,
  options: { bias?: Value; activation?: Activation; residual?: Value; output?: ComputeType } = {},
): Value {
  const { bias, activation = 'none', residual, output = 'f32' } = options;
  return only(x.graph.apply('linear', [x, weight, bias, residual], { activation, output }));
}

/** (x − mean) / sqrt(variance + epsilon) · weight + bias over the columns of x [rows, columns], which is f32. */
export function layerNorm(
  x: Value,
  weight: Value,
  bias: Value,
  options: { epsilon: number; output?: ComputeType },
): Value {
  const { epsilon, output = 'f32' } = options;
  return only(x.graph.apply('layer_norm', [x, weight, bias], { epsilon, output }));
}

/** How rows are shared among heads and sequences; `offsets` of ragged ones are i32 [sequences + 1] each, see `native/operators/attention.cpp`. */
export interface AttentionLayout {
  readonly heads: number;
  readonly sequences: number;
  readonly offsets?: { readonly queries: Value; readonly keys: Value };
}

/**
 * softmax(q · kᵀ / sqrt(head width)) · v for every sequence and head.
 * @param q [query tokens, heads · head width]; k and v [key tokens, heads · head width]
 */
export function attention(q: Value, k: Value, v: Value, options: AttentionLayout): Value {
  const { heads, sequences, offsets } = options;
  return only(q.graph.apply('attention', [q, k, v, offsets?.queries, offsets?.keys], { heads, sequences }));
}

/** Attention with what its gradient needs beside: ln Σ exp(score) of every query and head, f32 [query tokens, heads]. */
export function attentionWithStatistics(
  q: Value,
  k: Value,
  v: Value,
  { heads, sequences, offsets }: AttentionLayout,
): { out: Value; logsumexp: Value } {
  const inputs = [q, k, v, offsets?.queries, offsets?.keys];
  const [out, logsumexp] = q.graph.apply('attention', inputs, { heads, sequences, statistics: 1 });
  if (!out || !logsumexp) throw new Error('attention without statistics');
  return { out, logsumexp };
}

/**
 * Gradients of q, k and v, in their types.
 * @param dout the gradient of `out`, as it has its type
 * @param forward what `attentionWithStatistics` gave for the same q, k, v and layout
 */
export function attentionGradient(
  dout: Value,
  { q, k, v }: { q: Value; k: Value; v: Value },
  { out, logsumexp }: { out: Value; logsumexp: Value },
  { heads, sequences, offsets }: AttentionLayout,
): { dq: Value; dk: Value; dv: Value } {
  const inputs = [dout, q, k, v, out, logsumexp, offsets?.queries, offsets?.keys];
  const [dq, dk, dv] = q.graph.apply('attention_gradient', inputs, { heads, sequences });
  if (!dq || !dk || !dv) throw new Error('attention_gradient without its outputs');
  return { dq, dk, dv };
}

/** Class token and patches of images [images, 3, height, width], with position embeddings: [images · tokens, width]. */
export function patchEmbedding(
  pixels: Value,
  weight: Value,
  classEmbedding: Value,
  positionEmbedding: Value,
): Value {
  return only(pixels.graph.apply('patch_embedding', [pixels, weight, classEmbedding, positionEmbedding]));
}

/**
 * Concatenation of runs of rows: run i of the result, rows [offsets[i], offsets[i + 1]), starts at row starts[i] of x.
 * @param rows of the result: the last offset
 */
export function concatRows(x: Value, starts: Value, offsets: Value, rows: number): Value {
  return only(x.graph.apply('concat_rows', [x, starts, offsets], { rows }));
}
