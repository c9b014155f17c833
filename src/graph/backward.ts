import { gradientRules, type NodeGradient } from './gradients.js';
import type { Graph, Node, Value } from './graph.js';
import { add, placeColumns, typeOf } from './operators.js';

/** A value whose gradient is known: a loss and what it counts. */
export interface Seed {
  readonly value: Value;
  readonly gradient: Value;
}

/**
 * Reverse mode: adds to the graph the operators that compute the gradients of the seeds' values by others, in one pass over its nodes from the
 * last to the first. Nothing is computed here, and there is no tape at run time.
 *
 * @param by what gradients are asked for by; `sums` holds gradients that the new ones are added to, for those that have one
 * @returns for each of `by` its gradient, which may become an output of the graph; undefined where no seed depends on it
 */
export function backward(
  graph: Graph,
  seeds: readonly Seed[],
  by: readonly Value[],
  sums: ReadonlyMap<number, Value> = new Map(),
): (Value | undefined)[] {
  const way = new Backward(graph, by, sums);
  for (const { value, gradient } of seeds) way.add(value, gradient);
  way.run();
  const taken = new Set<number>();
  return by.map((value) => {
    const gradient = way.result(value);
    // Several may have one gradient, or one that is given, or lies in the gradient of something else.
    const own =
      gradient && (graph.standsAlone(gradient) && !taken.has(gradient.index) ? gradient : copyOf(gradient));
    if (own) taken.add(own.index);
    return own;
  });
}

const copyOf = (value: Value): Value =>
  placeColumns(value, { column: 0, columns: value.columns, output: typeOf(value), sum: undefined });

class Backward {
  /** What is known of the gradient by a value, by its index. */
  readonly #totals: Map<number, Value>;
  /** Values that a gradient was added to. */
  readonly #reached = new Set<number>();
  readonly #nodes: readonly Node[];
  /** Inputs and results that depend on what gradients are asked for by. */
  readonly #active = new Set<number>();
  /** For every value its views. */
  readonly #views = new Map<number, Value[]>();
  /** For every part of a join the whole. */
  readonly #joins = new Map<number, Value>();
  readonly #producers = new Map<number, { node: Node; output: number }>();
  /** Values that are read outside of the region that they are computed in: they are kept. */
  readonly #kept = new Set<number>();
  /** Values that were computed again. */
  readonly #again = new Map<number, Value>();

  constructor(
    readonly graph: Graph,
    by: readonly Value[],
    sums: ReadonlyMap<number, Value>,
  ) {
    this.#totals = new Map(sums);
    this.#nodes = [...graph.nodes];
    for (const value of by) for (const root of this.#rootsOf(value)) this.#active.add(root.index);
    for (const value of graph.values) {
      for (const part of graph.partsOf(value) ?? []) this.#joins.set(part.index, value);
      const view = graph.viewOf(value);
      if (!view) continue;
      const others = this.#views.get(view.source.index);
      if (others) others.push(value);
      else this.#views.set(view.source.index, [value]);
    }
    for (const node of this.#nodes) {
      for (const [output, value] of node.outputs.entries()) {
        this.#producers.set(value.index, { node, output });
      }
      for (const input of node.inputs) {
        if (!input) continue;
        for (const root of this.#rootsOf(input))
          if (this.#producers.get(root.index)?.node.region !== node.region) this.#kept.add(root.index);
      }
      if (this.#isActive(node)) for (const output of node.outputs) this.#active.add(output.index);
    }
  }

  /** Adds to the gradient by a value, in its type. */
  add(value: Value, gradient: Value): void {
    const sum = this.#totals.get(value.index);
    const { columns } = value;
    let total = gradient;
    if (gradient.dtype !== value.dtype)
      total = placeColumns(gradient, { column: 0, columns, output: typeOf(value), sum });
    else if (sum) total = add(sum, gradient);
    this.#set(value, total);
  }

  run(): void {
    for (const node of [...this.#nodes].reverse()) {
      for (const output of node.outputs) this.#gather(output);
      const gradients = node.outputs.map((output) => this.#totals.get(output.index));
      if (gradients.every((gradient) => gradient === undefined) || !this.#isActive(node)) continue;
      const rule = gradientRules[node.op];
      if (!rule) throw new Error(`operator ${node.op} has no gradient`);
      rule.apply(this.#nodeGradient(node, gradients));
    }
  }

  /** The gradient by a value, when the way back is done. */
  result(value: Value): Value | undefined {
    const view = this.graph.viewOf(value);
    const source = view?.source ?? value;
    this.#gather(source);
    const total = this.#reached.has(source.index) ? this.#totals.get(source.index) : undefined;
    return total && view ? this.graph.columns(total, view.column, value.columns) : total;
  }

  /** The inputs and results in whose memory a value lies. */
  #rootsOf(value: Value): readonly Value[] {
    const whole = this.graph.viewOf(value)?.source ?? value;
    return this.graph.partsOf(whole) ?? [whole];
  }

  #isActive(node: Node): boolean {
    return node.inputs.some((input) => input && this.#wants(input));
  }

  #wants(value: Value): boolean {
    return this.#rootsOf(value).some((root) => this.#active.has(root.index));
  }

  #set(value: Value, total: Value): void {
    this.#totals.set(value.index, total);
    this.#reached.add(value.index);
  }

  /** As {@link add}, of an operator that can add to what is known in f32 in the same pass. */
  #addInto(value: Value, make: (sum: Value | undefined) => Value): void {
    const sum = this.#totals.get(value.index);
    if (sum && sum.dtype !== 'f32') this.add(value, make(undefined));
    else this.#set(value, make(sum));
  }

  /** Adds to the gradient by a value, all of whose readers are done, what is known by the values that share its memory. */
  #gather(value: Value): void {
    const join = this.#joins.get(value.index);
    if (join) {
      this.#joins.delete(value.index);
      this.#gather(join);
      const parts = this.graph.partsOf(join) ?? [];
      const total = this.#totals.get(join.index);
      let column = 0;
      for (const part of parts.slice(0, parts.indexOf(value))) column += part.columns;
      if (total) this.add(value, this.graph.columns(total, column, value.columns));
    }
    this.#gatherViews(value);
  }

  #gatherViews(value: Value): void {
    const views = (this.#views.get(value.index) ?? []).filter((view) => this.#totals.has(view.index));
    this.#views.delete(value.index);
    if (views.length === 0) return;
    const column = (view: Value): number => this.graph.viewOf(view)?.column ?? 0;
    views.sort((a, b) => column(a) - column(b));
    const parts = views.map((view) => this.#known(this.#totals, view));
    // Side by side they are the whole: the operators whose results they are write into it.
    let next = 0;
    const tile = views.every((view) => {
      const begins = column(view) === next;
      next += view.columns;
      return begins;
    });
    const alone = new Set(parts).size === parts.length && parts.every((part) => this.graph.standsAlone(part));
    if (tile && next === value.columns && alone && value.shape.length === 2) {
      this.add(value, this.graph.join(parts));
      return;
    }
    for (const view of views) {
      const sum = this.#totals.get(value.index);
      const place = { column: column(view), columns: value.columns, output: typeOf(value), sum };
      this.#set(value, placeColumns(this.#known(this.#totals, view), place));
    }
  }

  #nodeGradient(node: Node, gradients: readonly (Value | undefined)[]): NodeGradient {
    const input = (i: number): Value => {
      const value = node.inputs[i];
      if (!value) throw new Error(`${node.op} has no input ${i}`);
      return value;
    };
    // The product whose activation a value is, when no gate multiplied it and nothing was added to it.
    const activatedFrom = (i: number): { node: Node; kept: Value } | undefined => {
      const producer = this.#producers.get(input(i).index);
      const kept = producer?.node.outputs[1];
      if (producer?.node.op !== 'linear' || producer.output !== 0 || !kept) return undefined;
      if (producer.node.inputs[3] || producer.node.inputs[4]) return undefined;
      return { node: producer.node, kept };
    };
    return {
      node,
      input: (i) => {
        const value = node.inputs[i];
        return value && this.#present(value);
      },
      output: (i) => {
        const value = node.outputs[i];
        return value && this.#present(value);
      },
      gradient: (output) => gradients[output],
      wants: (i) => {
        const value = node.inputs[i];
        return value !== undefined && this.#wants(value);
      },
      add: (i, gradient) => {
        this.add(input(i), gradient);
      },
      addInto: (i, make) => {
        this.#addInto(input(i), make);
      },
      activated: (i) => {
        const from = activatedFrom(i);
        if (!from) return undefined;
        const activation = from.node.attributes['activation'];
        return { kept: this.#present(from.kept), activation: String(activation) };
      },
      addIntoKept: (i, make) => {
        const from = activatedFrom(i);
        if (!from) throw new Error('not an activation');
        this.#addInto(from.kept, make);
      },
    };
  }

  #known(values: ReadonlyMap<number, Value>, value: Value): Value {
    const known = values.get(value.index);
    if (!known) throw new Error(`value ${value.index} is not known yet`);
    return known;
  }

  /**
   * Whether a value is not kept. Norms are always computed again: that takes one pass over what they read, which is kept anyway, and their
   * results would be a sixth of what is kept.
   */
  #isComputedAgain(node: Node, value: Value): boolean {
    return node.op === 'layer_norm' || (node.region !== undefined && !this.#kept.has(value.index));
  }

  /** A value to compute with: itself, or the same computed again when it was not kept. */
  #present(value: Value): Value {
    const view = this.graph.viewOf(value);
    const root = view?.source ?? value;
    const producer = this.#producers.get(root.index);
    if (!producer || !this.#isComputedAgain(producer.node, root)) return value;
    let again = this.#again.get(root.index);
    if (!again) {
      const { node } = producer;
      const inputs = node.inputs.map((input) => input && this.#present(input));
      const outputs = this.graph.apply(node.op, inputs, node.attributes);
      for (const [i, output] of node.outputs.entries()) {
        const copy = outputs[i];
        if (copy) this.#again.set(output.index, copy);
      }
      again = this.#known(this.#again, root);
    }
    if (!view) return again;
    const known = this.#again.get(value.index);
    if (known) return known;
    const columns = this.graph.columns(again, view.column, value.columns);
    this.#again.set(value.index, columns);
    return columns;
  }
}
