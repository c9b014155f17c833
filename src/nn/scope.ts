import type { Graph, Value } from '../graph/graph.js';

/**
 * Where a module finds its weights: a graph, a prefix of published names, and the type that products are computed in. In `bf16`
 * weights and inputs of products are bfloat16, while sums, the residual stream, norms and softmax stay f32.
 */
export class Scope {
  constructor(
    readonly graph: Graph,
    readonly dtype: 'f32' | 'bf16',
    readonly prefix = '',
  ) {}

  /** The scope of a submodule. */
  at(name: string | number): Scope {
    return new Scope(this.graph, this.dtype, `${this.prefix}${name}.`);
  }

  /** A weight that is multiplied by; several names are stacked along the outputs. */
  matrix(names: string | readonly string[], shape: readonly number[]): Value {
    return this.graph.weight(this.#paths(names), this.dtype, shape);
  }

  /** A weight that is read element by element: biases, norms, embeddings. */
  vector(names: string | readonly string[], shape: readonly number[]): Value {
    return this.graph.weight(this.#paths(names), 'f32', shape);
  }

  #paths(names: string | readonly string[]): string[] {
    return (typeof names === 'string' ? [names] : names).map((name) => this.prefix + name);
  }
}
