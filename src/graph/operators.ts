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

/**
 * softmax(q · kᵀ / sqrt(head width)) · v for every sequence and head.
 * @param q [query tokens, heads · head width]; k and v [key tokens, heads · head width]
 * @param options.offsets ragged sequences: i32 [sequences + 1] each, see `native/operators/attention.cpp`; equal lengths without
 */
export function attention(
  q: Value,
  k: Value,
  v: Value,
  options: { heads: number; sequences: number; offsets?: { queries: Value; keys: Value } },
): Value {
  const { heads, sequences, offsets } = options;
  return only(q.graph.apply('attention', [q, k, v, offsets?.queries, offsets?.keys], { heads, sequences }));
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
