import { native, type DType, type NativeGraph, type TensorType } from '../bindings.js';
import { ArgumentError } from '../errors.js';

/** A symbolic tensor: an element type, a shape, and a place in a graph. It holds no numbers. */
export class Value implements TensorType {
  constructor(
    readonly graph: Graph,
    /** Index among the graph's values. */
    readonly index: number,
    readonly dtype: DType,
    readonly shape: readonly number[],
    /** Of a matrix that is multiplied by: the type that the product is computed in, when it is not its own. */
    readonly compute?: 'f32' | 'bf16',
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

/** One use of an operator. */
export interface Node {
  readonly op: string;
  readonly inputs: readonly (Value | undefined)[];
  readonly outputs: readonly Value[];
  readonly attributes: Readonly<Record<string, number | string>>;
  /** Nodes of one region are computed again for the gradients instead of being kept, see {@link Graph.recomputed}. */
  readonly region: number | undefined;
}

/** Weights that change: read together under their published names, as rows of one tensor. */
export interface Parameter {
  readonly names: readonly string[];
  /** Of all of them together. */
  readonly shape: readonly number[];
  readonly value: Value;
}

type Definition = NativeGraph['values'][number];

/** What a graph that is trained differs in. */
export interface Training {
  /** Whether a weight of this name changes; others are packed once, as for inference. */
  trainable(name: string): boolean;
  /** Whether what {@link Graph.recomputed} encloses is computed again for the gradients. */
  readonly recompute: boolean;
}

/**
 * A model as a list of operators on symbolic values. Built by the functions of `operators.ts` and `src/nn`, handed to the engine in one
 * call. Shapes follow from the engine's operator table at every step, so that a wrong one is found where it is written.
 */
export class Graph {
  readonly #definitions: Definition[] = [];
  readonly #values: Value[] = [];
  readonly #nodes: Node[] = [];
  readonly #outputs: NativeGraph['outputs'] = [];
  readonly #weights = new Map<string, WeightUse>();
  readonly #weightValues = new Map<string, Value>();
  readonly #rows = new Map<number, Value>();
  readonly #parameters = new Map<string, Parameter>();
  readonly #inputs = new Map<string, Value>();
  /** Values that are part of a join. */
  readonly #joined = new Set<number>();
  #region: number | undefined;
  #regions = 0;

  /** @param training makes weights parameters, and operators keep what their gradients need; absent: inference */
  constructor(readonly training?: Training) {}

  /** A tensor that every run is given under this name. */
  input(name: string, dtype: DType, shape: readonly number[]): Value {
    const value = this.#add({ kind: 'input', name, dtype, shape });
    this.#inputs.set(name, value);
    return value;
  }

  /**
   * The named weights, concatenated along their first dimension, which they share evenly.
   * @param dtype the type that is computed with; vectors and embeddings, which are read element by element, are `f32`
   */
  weight(names: readonly string[], dtype: 'f32' | 'bf16', shape: readonly number[]): Value {
    const joined = names.join('+');
    const partShape = [(shape[0] ?? 1) / names.length, ...shape.slice(1)];
    if (this.training && names.some((name) => this.training?.trainable(name))) {
      return this.#parameter(joined, names, dtype, shape);
    }
    const key = `${dtype} ${joined}`;
    const known = this.#weightValues.get(key);
    if (known) return known;
    for (const name of names) this.#weights.set(name, { name, shape: partShape });
    const value = this.#add({ kind: 'weight', parts: names, dtype, shape });
    this.#weightValues.set(key, value);
    return value;
  }

  /**
   * A weight that does not change once more, to be read row by row by gradients that pass through its product: that reads it packed. Any other
   * value is returned as it is.
   */
  rowsOf(value: Value): Value {
    const definition = this.#definitions[value.index];
    if (definition?.kind !== 'weight') return value;
    let rows = this.#rows.get(value.index);
    if (!rows) {
      const { index } = this.#add({ ...definition, dtype: 'f32' });
      rows = new Value(this, index, 'f32', value.shape, value.dtype === 'bf16' ? 'bf16' : 'f32');
      this.#rows.set(value.index, rows);
    }
    return rows;
  }

  /** A parameter is kept in f32, row by row, and is an input of every run; products round it to their type. */
  #parameter(
    joined: string,
    names: readonly string[],
    dtype: 'f32' | 'bf16',
    shape: readonly number[],
  ): Value {
    let parameter = this.#parameters.get(joined);
    if (!parameter) {
      parameter = { names, shape, value: this.input(`parameter ${joined}`, 'f32', shape) };
      this.#parameters.set(joined, parameter);
    }
    const { value } = parameter;
    return new Value(this, value.index, 'f32', shape, dtype);
  }

  /**
   * Columns [first, first + count) of a matrix, or elements of a vector, without a copy. Columns of columns are columns of the whole.
   * @throws {ArgumentError} `ERR_INVALID_ARGUMENT` when they lie outside, or the source has more dimensions or is a weight that is packed
   */
  columns(source: Value, first: number, count: number): Value {
    const { shape } = source;
    const wanted = `columns [${first}, ${first + count}) of [${shape.join(', ')}]`;
    // Kernels take a tensor of more dimensions for one piece of memory.
    if (shape.length < 1 || shape.length > 2)
      throw new ArgumentError(`${wanted}: expected a matrix or a vector`);
    if (!(first >= 0 && count > 0 && first + count <= source.columns)) {
      throw new ArgumentError(`${wanted}: expected some that are there`);
    }
    if (this.#definitions[source.index]?.kind === 'weight') {
      throw new ArgumentError(
        `${wanted}: expected an activation or a parameter, not a weight that is packed`,
      );
    }
    const inside = this.viewOf(source);
    return this.#add({
      kind: 'view',
      source: (inside?.source ?? source).index,
      column: (inside?.column ?? 0) + first,
      dtype: source.dtype,
      shape: [...shape.slice(0, -1), count],
    });
  }

  /**
   * Matrices side by side, without a copy: the operators whose results they are write into the whole.
   * @throws {ArgumentError} `ERR_INVALID_ARGUMENT` when one of them is no result, an output, or part of another join
   */
  join(parts: readonly Value[]): Value {
    const [first] = parts;
    if (!first) throw new ArgumentError('nothing to join');
    for (const part of parts) {
      if (!this.standsAlone(part)) {
        throw new ArgumentError('a join is of results of operators that are no outputs and in no other join');
      }
      this.#joined.add(part.index);
    }
    const shape = [first.rows, parts.reduce((sum, part) => sum + part.columns, 0)];
    return this.#add({ kind: 'join', joined: parts.map((part) => part.index), dtype: first.dtype, shape });
  }

  /**
   * Builds a part of a model of which only what is read outside of it is kept for the gradients; they compute the rest again. Trades a second
   * forward pass for the memory of the activations in between.
   */
  recomputed<T>(body: () => T): T {
    if (!this.training?.recompute || this.#region !== undefined) return body();
    this.#region = this.#regions++;
    try {
      return body();
    } finally {
      this.#region = undefined;
    }
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
    this.#nodes.push({ op, inputs, outputs, attributes, region: this.#region });
    return outputs;
  }

  /** Makes a value readable after a run, under this name. */
  output(name: string, value: Value): void {
    this.#outputs.push({ name, value: value.index });
  }

  /** Every weight that the graph reads and does not change, in order of first use. */
  get weights(): ReadonlyMap<string, WeightUse> {
    return this.#weights;
  }

  /** Every weight that changes, in order of first use. */
  get parameters(): readonly Parameter[] {
    return [...this.#parameters.values()];
  }

  get inputs(): ReadonlyMap<string, Value> {
    return this.#inputs;
  }

  get nodes(): readonly Node[] {
    return this.#nodes;
  }

  get values(): readonly Value[] {
    return this.#values;
  }

  /** Where a view's columns lie, or undefined for a value that is no view. */
  viewOf(value: Value): { source: Value; column: number } | undefined {
    const definition = this.#definitions[value.index];
    if (definition?.kind !== 'view') return undefined;
    const source = this.#values[definition.source];
    return source && { source, column: definition.column };
  }

  /** The parts of a join, or undefined for a value that is none. */
  partsOf(value: Value): readonly Value[] | undefined {
    const definition = this.#definitions[value.index];
    if (definition?.kind !== 'join') return undefined;
    return definition.joined.flatMap((index) => this.#values[index] ?? []);
  }

  /** Whether a value is an operator's result in memory of its own: it may become an output, or part of a join. */
  standsAlone(value: Value): boolean {
    return (
      this.#definitions[value.index]?.kind === 'result' &&
      !this.#joined.has(value.index) &&
      !this.#outputs.some((output) => output.value === value.index)
    );
  }

  toNative(): NativeGraph {
    return {
      values: this.#definitions,
      nodes: this.#nodes.map(({ op, inputs, outputs, attributes }) => ({
        op,
        inputs: inputs.map((input) => input?.index ?? null),
        outputs: outputs.map((output) => output.index),
        attributes,
      })),
      outputs: this.#outputs,
    };
  }

  #add(definition: Definition): Value {
    this.#definitions.push(definition);
    const value = new Value(this, this.#values.length, definition.dtype, definition.shape);
    this.#values.push(value);
    return value;
  }
}
