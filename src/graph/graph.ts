import { native, type DType, type NativeGraph, type TensorType } from '../bindings.js';

/** A symbolic tensor: an element type, a shape, and a place in a graph. It holds no numbers. */
export class Value implements TensorType {
  constructor(
    readonly graph: Graph,
    /** Index among the graph's values. */
    readonly index: number,
    readonly dtype: DType,
    readonly shape: readonly number[],
  ) {}

  /** Rows of a matrix. */
  get rows(): number {
    return this.shape[0] ?? 1;
  }

  /** The last dimension. */
  get columns(): number {
    return this.shape.at(-1) ?? 1;
  }
}

/** One weight that a graph reads: its published name and shape. */
export interface WeightUse {
  readonly name: string;
  readonly shape: readonly number[];
}

/**
 * A model as a list of operators on symbolic values. Built by the functions of `operators.ts` and `src/nn`, handed to the engine in one
 * call. Shapes follow from the engine's operator table at every step, so that a wrong one is found where it is written.
 */
export class Graph {
  readonly #values: NativeGraph['values'] = [];
  readonly #nodes: NativeGraph['nodes'] = [];
  readonly #outputs: NativeGraph['outputs'] = [];
  readonly #weights = new Map<string, WeightUse>();
  readonly #weightValues = new Map<string, Value>();

  /** A tensor that every run is given under this name. */
  input(name: string, dtype: DType, shape: readonly number[]): Value {
    return this.#add({ kind: 'input', name, dtype, shape });
  }

  /**
   * The named weights, concatenated along their first dimension, which they share evenly.
   * @param dtype the type that is computed with; vectors and embeddings, which are read element by element, are `f32`
   */
  weight(names: readonly string[], dtype: 'f32' | 'bf16', shape: readonly number[]): Value {
    const key = `${dtype} ${names.join('+')}`;
    const known = this.#weightValues.get(key);
    if (known) return known;
    const partShape = [(shape[0] ?? 1) / names.length, ...shape.slice(1)];
    for (const name of names) this.#weights.set(name, { name, shape: partShape });
    const value = this.#add({ kind: 'weight', parts: names, dtype, shape });
    this.#weightValues.set(key, value);
    return value;
  }

  /** Columns [first, first + count) of a matrix, without a copy. */
  columns(source: Value, first: number, count: number): Value {
    const shape = [...source.shape.slice(0, -1), count];
    return this.#add({ kind: 'view', source: source.index, column: first, dtype: source.dtype, shape });
  }

  /** @throws an error with code `ERR_INVALID_ARGUMENT` when the inputs do not fit the operator's row. */
  apply(
    op: string,
    inputs: readonly (Value | undefined)[],
    attributes: Record<string, number | string> = {},
  ): Value[] {
    const types = native().inferShapes(
      op,
      inputs.map((input) => (input ? { dtype: input.dtype, shape: input.shape } : null)),
      attributes,
    );
    const outputs = types.map((type) => this.#add({ kind: 'result', dtype: type.dtype, shape: type.shape }));
    this.#nodes.push({
      op,
      inputs: inputs.map((input) => input?.index ?? null),
      outputs: outputs.map((output) => output.index),
      attributes,
    });
    return outputs;
  }

  /** Makes a value readable after a run, under this name. */
  output(name: string, value: Value): void {
    this.#outputs.push({ name, value: value.index });
  }

  /** Every weight that the graph reads, in order of first use. */
  get weights(): ReadonlyMap<string, WeightUse> {
    return this.#weights;
  }

  toNative(): NativeGraph {
    return { values: this.#values, nodes: this.#nodes, outputs: this.#outputs };
  }

  #add(value: NativeGraph['values'][number]): Value {
    this.#values.push(value);
    return new Value(this, this.#values.length - 1, value.dtype, value.shape);
  }
}
