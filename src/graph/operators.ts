import type { Value } from './graph.js';

/** What follows a matrix product: `gelu` is exact (erf), `quick_gelu` is x·sigmoid(1.702 x). */
export type Activation = 'none' | 'gelu' | 'quick_gelu';

export type ComputeType = 'f32' | 'bf16';

/** The type that something of a value's is computed in. */
export const typeOf = (value: Value): ComputeType => (value.dtype === 'bf16' ? 'bf16' : 'f32');

/** The result of an operator that has one, or the first of several. */
export function first(values: readonly Value[]): Value {
  const [value] = values;
  if (value === undefined) throw new Error('an operator without outputs');
  return value;
}

/**
 * gate ⊙ activation(x · weightᵀ + bias) + residual, in one pass.
 * @param x [rows, inputs]
 * @param weight [outputs, inputs]; its dtype is the type that the product is computed in
 * @param options.gate [gates, outputs]: each row of it multiplies as many of the product's rows, which follow each other, such as those of one image
 */
export function linear(
  x: Value,
  weight: Value,
  options: {
    bias?: Value;
    activation?: Activation;
    residual?: Value;
    gate?: Value;
    output?: ComputeType;
  } = {},
): Value {
  const { bias, activation = 'none', residual, gate, output = 'f32' } = options;
  // What an activation is made of, or what a gate was multiplied by, cannot be told from the result, so a graph that is trained keeps it; also of gates
  // that do not learn, of which nobody reads it: the arena takes it back at once.
  const keep = x.graph.training && (activation !== 'none' || gate) ? { keep: 1 } : {};
  return first(
    x.graph.apply('linear', [x, weight, bias, residual, gate], {
      activation,
      output,
      ...keep,
      ...computeOf(weight),
    }),
  );
}

/** The attribute of a product with a matrix that is multiplied in another type than its own. */
export function computeOf(weight: Value): { compute?: ComputeType } {
  return weight.compute === undefined || weight.compute === weight.dtype ? {} : { compute: weight.compute };
}

/** (x − mean) / sqrt(variance + epsilon) · weight + bias over the columns of x [rows, columns], which is f32. */
export function layerNorm(
  x: Value,
  weight: Value,
  bias: Value,
  options: { epsilon: number; output?: ComputeType },
): Value {
  const { epsilon, output = 'f32' } = options;
  return first(x.graph.apply('layer_norm', [x, weight, bias], { epsilon, output }));
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
  const statistics = q.graph.training ? { statistics: 1 } : {};
  return first(
    q.graph.apply('attention', [q, k, v, offsets?.queries, offsets?.keys], {
      heads,
      sequences,
      ...statistics,
    }),
  );
}

/** Class token and patches of images [images, 3, height, width], with position embeddings: [images · tokens, width]. */
export function patchEmbedding(
  pixels: Value,
  weight: Value,
  classEmbedding: Value,
  positionEmbedding: Value,
): Value {
  return first(
    pixels.graph.apply(
      'patch_embedding',
      [pixels, weight, classEmbedding, positionEmbedding],
      computeOf(weight),
    ),
  );
}

/**
 * Concatenation of runs of rows: run i of the result, rows [offsets[i], offsets[i + 1]), starts at row starts[i] of x.
 * @param rows of the result: the last offset
 */
export function concatRows(x: Value, starts: Value, offsets: Value, rows: number): Value {
  return first(x.graph.apply('concat_rows', [x, starts, offsets], { rows }));
}

/**
 * The visible patches of images [images, channels, height, width] as rows [images · visible, channels · patch²] in the order [y][x][channel].
 * @param visible i32 [images · visible]
 */
export function patchGather(
  images: Value,
  visible: Value,
  options: { patch: number; output?: ComputeType },
): Value {
  return first(images.graph.apply('patch_gather', [images, visible], { output: 'f32', ...options }));
}

/**
 * positions + the rows where a patch is visible and the mask token where it is not: [images · patches, width].
 * @param rows [images · visible, width]
 * @param maskToken [width]; positions [patches, width]
 */
export function patchScatter(
  rows: Value,
  visible: Value,
  maskToken: Value,
  positions: Value,
  images: number,
): Value {
  return first(rows.graph.apply('patch_scatter', [rows, visible, maskToken, positions], { images }));
}

/**
 * Σ |prediction − target| · mask / normalizer, [1].
 * @param prediction [images · patches, channels · patch²]; target [images, channels, height, width]; mask [images, 1, height, width]
 */
export function maskedL1(
  prediction: Value,
  target: Value,
  mask: Value,
  normalizer: Value,
  patch: number,
): Value {
  return first(prediction.graph.apply('masked_l1', [prediction, target, mask, normalizer], { patch }));
}

export function add(a: Value, b: Value): Value {
  return first(a.graph.apply('add', [a, b]));
}

/**
 * x in some columns of a matrix, which is `sum` or zeros besides: where it is there, x is added to it.
 * @param options.column where x begins, of `columns`; `output` is the result's type
 */
export function placeColumns(
  x: Value,
  options: { column: number; columns: number; output: ComputeType; sum: Value | undefined },
): Value {
  const { sum, ...attributes } = options;
  return first(x.graph.apply('place_columns', [x, sum], attributes));
}
