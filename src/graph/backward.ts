import { gradientRules, type NodeGradient } from './gradients.js';
import type { Graph, Node, Value } from './graph.js';
import { add } from './operators.js';

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
 * @returns for each of `by` its gradient; undefined where no seed depends on it
 */
export function backward(
  graph: Graph,
  seeds: readonly Seed[],
  by: readonly Value[],
  sums: ReadonlyMap<number, Value> = new Map(),
): (Value | undefined)[] {
  const way = new Backward(graph, by, sums);
  for (const { value, gradient } of seeds) way.addTo(value, (sum) => (sum ? add(sum, gradient) : gradient));
  way.run();
  return by.map((value) => (way.reached.has(value.index) ? way.total(value) : undefined));
}

class Backward {
  /** What is known of the gradient by a value, by its index. */
  readonly #totals: Map<number, Value>;
  /** Values that a gradient was added to. */
  readonly reached = new Set<number>();
  readonly #nodes: readonly Node[];
  /** Values that depend on what gradients are asked for by. */
  readonly #active = new Set<number>();
  /** For every value its views. */
  readonly #views = new Map<number, Value[]>();
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
    for (const value of by) this.#active.add(value.index);
    for (const value of graph.values) {
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
        const root = graph.viewOf(input)?.source ?? input;
        if (this.#active.has(root.index)) this.#active.add(input.index);
        if (this.#producers.get(root.index)?.node.region !== node.region) this.#kept.add(root.index);
      }
      if (node.inputs.some((input) => input && this.#active.has(input.index))) {
        for (const output of node.outputs) {
          this.#active.add(output.index);
          for (const view of this.#views.get(output.index) ?? []) this.#active.add(view.index);
        }
      }
    }
  }

  total(value: Value): Value | undefined {
    return this.#totals.get(value.index);
  }

  addTo(value: Value, make: (sum: Value | undefined) => Value): void {
    const sum = this.#totals.get(value.index);
    if (sum && sum.dtype !== 'f32') this.#totals.set(value.index, add(sum, make(undefined)));
    else this.#totals.set(value.index, make(sum));
    this.reached.add(value.index);
  }

  run(): void {
    for (const node of [...this.#nodes].reverse()) {
      for (const output of node.outputs) this.#gatherViews(output);
      const gradients = node.outputs.map((output) => this.total(output));
      if (gradients.every((gradient) => gradient === undefined)) continue;
      if (!node.inputs.some((input) => input && this.#active.has(input.index))) continue;
      const rule = gradientRules[node.op];
      if (!rule) throw new Error(`operator ${node.op} has no gradient`);
      rule.apply(this.#nodeGradient(node, gradients));
    }
  }

  /** The gradients by a value's views, side by side, are its own. */
  #gatherViews(value: Value): void {
    const views = (this.#views.get(value.index) ?? []).filter((view) => this.#totals.has(view.index));
    if (views.length === 0) return;
    const column = (view: Value): number => this.graph.viewOf(view)?.column ?? 0;
    views.sort((a, b) => column(a) - column(b));
    let next = 0;
    const parts = views.map((view) => {
      if (column(view) !== next) throw new Error('views that overlap or leave columns out have no gradient');
      next += view.columns;
      return this.#known(this.#totals, view);
    });
    if (next !== value.columns) throw new Error('views that leave columns out have no gradient');
    const whole = this.graph.join(parts);
    const sum = this.#totals.get(value.index);
    this.#totals.set(value.index, sum ? add(sum, whole) : whole);
  }

  #nodeGradient(node: Node, gradients: readonly (Value | undefined)[]): NodeGradient {
    const input = (i: number): Value => {
      const value = node.inputs[i];
      if (!value) throw new Error(`${node.op} has no input ${i}`);
      return value;
    };
    // The product whose activation a value is, when nothing else was added to it.
    const activatedFrom = (i: number): { node: Node; kept: Value } | undefined => {
      const producer = this.#producers.get(input(i).index);
      const kept = producer?.node.outputs[1];
      if (producer?.node.op !== 'linear' || producer.output !== 0 || !kept || producer.node.inputs[3])
        return undefined;
      return { node: producer.node, kept };
    };
    const addTo = (value: Value, make: (sum: Value | undefined) => Value): void => {
      this.addTo(value, make);
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
        return value !== undefined && this.#active.has(value.index);
      },
      add: (i, gradient) => {
        addTo(input(i), (sum) => (sum ? add(sum, gradient) : gradient));
      },
      addInto: (i, make) => {
        addTo(input(i), make);
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
        addTo(from.kept, make);
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
