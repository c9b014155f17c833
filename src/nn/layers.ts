import type { Value } from '../graph/graph.js';
import * as op from '../graph/operators.js';
import type { Scope } from './scope.js';

/** Layer norm with the weights `weight` and `bias` of the scope. `output` defaults to f32, the residual stream's type. */
export function layerNorm(w: Scope, x: Value, options: { epsilon: number; output?: 'f32' | 'bf16' }): Value {
  const shape = [x.columns];
  return op.layerNorm(x, w.vector('weight', shape), w.vector('bias', shape), options);
}

/** x · Wᵀ + b with one or several layers of the scope side by side: `names` are the submodules that hold `weight` and `bias`. */
export function linear(
  w: Scope,
  names: string | readonly string[],
  x: Value,
  outputs: number,
  options: { activation?: op.Activation; residual?: Value; gate?: Value; output?: 'f32' | 'bf16' } = {},
): Value {
  const layers = typeof names === 'string' ? [names] : names;
  const rows = outputs * layers.length;
  const weight = w.matrix(
    layers.map((name) => `${name}.weight`),
    [rows, x.columns],
  );
  const bias = w.vector(
    layers.map((name) => `${name}.bias`),
    [rows],
  );
  return op.linear(x, weight, { bias, ...options });
}

/** residual + fc2(activation(fc1(x))) */
export function mlp(w: Scope, x: Value, hidden: number, activation: op.Activation, residual: Value): Value {
  const inner = linear(w, 'fc1', x, hidden, { activation, output: w.dtype });
  return linear(w, 'fc2', inner, residual.columns, { residual });
}

/** Names of an attention's projections: transformers' CLIP and diffusers call them differently. */
export interface ProjectionNames {
  readonly q: string;
  readonly k: string;
  readonly v: string;
  readonly out: string;
}

/** residual + out(attention(q(x), k(x), v(x))) */
export function selfAttention(
  w: Scope,
  names: ProjectionNames,
  x: Value,
  residual: Value,
  options: { heads: number; sequences: number },
): Value {
  const width = residual.columns;
  // One product for all three; the heads read their columns in place.
  const qkv = linear(w, [names.q, names.k, names.v], x, width, { output: w.dtype });
  const [q, k, v] = [0, 1, 2].map((i) => x.graph.columns(qkv, i * width, width)) as [Value, Value, Value];
  return linear(w, names.out, op.attention(q, k, v, options), width, { residual });
}

/** residual + out(attention(q(x), k(z), v(z))) */
export function crossAttention(
  w: Scope,
  names: ProjectionNames,
  x: Value,
  z: Value,
  residual: Value,
  options: { heads: number; sequences: number; offsets?: { queries: Value; keys: Value } },
): Value {
  const width = residual.columns;
  const q = linear(w, names.q, x, width, { output: w.dtype });
  const kv = linear(w, [names.k, names.v], z, width, { output: w.dtype });
  const k = x.graph.columns(kv, 0, width);
  const v = x.graph.columns(kv, width, width);
  return linear(w, names.out, op.attention(q, k, v, options), width, { residual });
}
