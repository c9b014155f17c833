import type { Node, Value } from './graph.js';
import { add, computeOf, first, typeOf } from './operators.js';

/** One node on the way back: what is known of the gradients of its outputs, and where those of its inputs go. */
export interface NodeGradient {
  readonly node: Node;
  /** What the node read, and what it wrote, to compute with: asked for only when needed, because it may have to be computed again. */
  input(index: number): Value | undefined;
  output(index: number): Value | undefined;
  /** The loss's gradient by an output; undefined when nothing depends on it. */
  gradient(output: number): Value | undefined;
  /** Whether anybody asks for the gradient by an input. */
  wants(input: number): boolean;
  /** Adds to the gradient by an input, in that input's type. */
  add(input: number, gradient: Value): void;
  /**
   * Adds to the gradient by an input, for operators that can do so in the same pass.
   * @param make returns the new total, given what is known so far when it is f32
   */
  addInto(input: number, make: (sum: Value | undefined) => Value): void;
  /** When an input is the activation of a product that was kept: that product, to which the gradient may go instead. */
  activated(input: number): { kept: Value; activation: string } | undefined;
  /** As {@link addInto}, by the product that an input is the activation of. */
  addIntoKept(input: number, make: (sum: Value | undefined) => Value): void;
}

export interface GradientRule {
  /** Names of the inputs that gradients are stated by. */
  readonly by: readonly string[];
  /** Names of inputs that are data: a gradient by them is never asked for. */
  readonly data?: readonly string[];
  readonly apply: (n: NodeGradient) => void;
}

function need<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('an operator has fewer inputs or outputs than its gradient needs');
  return value;
}

/** Those of a node's attributes that are not at their default. */
function attributesOf(node: Node, names: readonly string[]): Record<string, number | string> {
  const { attributes } = node;
  return Object.fromEntries(
    names.flatMap((name) => {
      const value = attributes[name];
      return value === undefined ? [] : [[name, value]];
    }),
  );
}

/** Of an operator with one output that somebody depends on, or the rule would not be asked. */
function only(n: NodeGradient): Value {
  return need(n.gradient(0));
}

/** Every operator's gradient in terms of operators. Formulas: the heads of `native/operators/*_gradient*.cpp`. */
export const gradientRules: Readonly<Record<string, GradientRule>> = {
  linear: {
    by: ['x', 'weight', 'bias', 'residual', 'gate'],
    apply(n) {
      const weight = need(n.input(1));
      const { graph } = weight;
      const activation = (n.node.attributes['activation'] ?? 'none') as string;
      const dy = n.gradient(0);
      if (dy && n.wants(3)) n.add(3, dy);
      // d: the gradient by the product, before its activation.
      let d = n.gradient(1);
      if (dy) {
        let through = dy;
        const gate = n.input(4);
        if (gate) {
          // Its own gradient is of what it was multiplied by. What comes through it goes into products, in their type.
          const value = n.wants(4) ? need(n.output(1)) : undefined;
          const output = d ? typeOf(d) : (weight.compute ?? typeOf(weight));
          const attributes = value ? { output, activation } : { output };
          const [gated, dgate] = graph.apply('gate_gradient', [dy, gate, value], attributes);
          through = need(gated);
          if (dgate) n.add(4, dgate);
        }
        if (activation !== 'none')
          through = first(graph.apply('activation_gradient', [through, need(n.output(1))], { activation }));
        d = d ? add(d, through) : through;
      }
      const product = need(d);
      // Of an activation only what it is made of is kept: products take it again.
      const before = n.activated(0);
      if (n.wants(2)) n.addInto(2, (sum) => first(graph.apply('column_sums', [product, sum])));
      if (n.wants(1)) {
        const x = before?.kept ?? need(n.input(0));
        const attributes = {
          compute: weight.compute ?? typeOf(weight),
          activation: before?.activation ?? 'none',
        };
        n.addInto(1, (sum) => first(graph.apply('linear_weight_gradient', [product, x, sum], attributes)));
      }
      if (!n.wants(0)) return;
      const output = typeOf(need(n.node.inputs[0]));
      const rows = graph.rowsOf(weight);
      const attributes = { output, ...computeOf(rows) };
      const intoX = (sum: Value | undefined): Value =>
        first(
          graph.apply('linear_input_gradient', [product, rows, before?.kept, sum], {
            ...attributes,
            activation: before?.activation ?? 'none',
          }),
        );
      if (before) n.addIntoKept(0, intoX);
      else n.addInto(0, intoX);
    },
  },
  layer_norm: {
    by: ['x', 'weight', 'bias'],
    apply(n) {
      const [x, weight] = [need(n.input(0)), need(n.input(1))];
      const epsilon = n.node.attributes['epsilon'] ?? 1e-5;
      n.addInto(0, (sum) => {
        const inputs = [only(n), x, weight, sum];
        const [dx, dweight, dbias] = x.graph.apply('layer_norm_gradient', inputs, { epsilon });
        if (n.wants(1)) n.add(1, need(dweight));
        if (n.wants(2)) n.add(2, need(dbias));
        return need(dx);
      });
    },
  },
  attention: {
    by: ['q', 'k', 'v'],
    apply(n) {
      const dout = only(n);
      const given = [0, 1, 2].map((i) => n.input(i));
      const gradients = dout.graph.apply(
        'attention_gradient',
        [dout, ...given, need(n.output(0)), need(n.output(1)), n.input(3), n.input(4)],
        attributesOf(n.node, ['heads', 'sequences', 'scale']),
      );
      for (const input of [0, 1, 2]) if (n.wants(input)) n.add(input, need(gradients[input]));
    },
  },
  patch_embedding: {
    by: ['pixels', 'weight', 'class_embedding', 'position_embedding'],
    apply(n) {
      const [pixels, weight] = [need(n.input(0)), need(n.input(1))];
      const { graph } = pixels;
      const output = weight.compute ?? typeOf(weight);
      const [images = 0, channels = 0, height = 0, width = 0] = pixels.shape;
      const patch = weight.shape[2] ?? 1;
      const order = 'channels_first';
      const [dpatches, dclass, dpositions] = graph.apply('patch_embedding_gradient', [only(n)], {
        images,
        output,
      });
      if (n.wants(2)) n.add(2, need(dclass));
      if (n.wants(3)) n.add(3, need(dpositions));
      if (n.wants(1)) {
        n.addInto(1, (sum) => {
          const rows = first(graph.apply('patch_gather', [pixels], { patch, order, output }));
          return first(
            graph.apply('linear_weight_gradient', [need(dpatches), rows, sum], { compute: output }),
          );
        });
      }
      if (n.wants(0)) {
        const rows = first(graph.apply('linear_input_gradient', [dpatches, weight], computeOf(weight)));
        const attributes = { patch, order, images, channels, height, width };
        n.add(0, first(graph.apply('patch_gather_gradient', [rows], attributes)));
      }
    },
  },
  concat_rows: {
    by: ['x'],
    apply(n) {
      const dy = only(n);
      const { rows } = need(n.node.inputs[0]);
      n.add(0, first(dy.graph.apply('concat_rows_gradient', [dy, n.input(1), n.input(2)], { rows })));
    },
  },
  patch_gather: {
    by: ['images'],
    apply(n) {
      const dy = only(n);
      const [images = 0, channels = 0, height = 0, width = 0] = need(n.node.inputs[0]).shape;
      const attributes = {
        ...attributesOf(n.node, ['patch', 'order']),
        ...{ images, channels, height, width },
      };
      n.add(0, first(dy.graph.apply('patch_gather_gradient', [dy, n.input(1)], attributes)));
    },
  },
  patch_scatter: {
    by: ['rows', 'mask_token', 'positions'],
    apply(n) {
      const dy = only(n);
      const output = typeOf(need(n.node.inputs[0]));
      const [drows, dmask, dpositions] = dy.graph.apply('patch_scatter_gradient', [dy, n.input(1)], {
        ...attributesOf(n.node, ['images']),
        output,
      });
      if (n.wants(0)) n.add(0, need(drows));
      if (n.wants(2)) n.add(2, need(dmask));
      if (n.wants(3)) n.add(3, need(dpositions));
    },
  },
  masked_l1: {
    by: ['prediction'],
    data: ['target', 'mask', 'normalizer'],
    apply(n) {
      const dloss = only(n);
      const inputs = [...[0, 1, 2, 3].map((i) => n.input(i)), dloss];
      n.add(0, first(dloss.graph.apply('masked_l1_gradient', inputs, attributesOf(n.node, ['patch']))));
    },
  },
  add: {
    by: ['a', 'b'],
    apply(n) {
      for (const input of [0, 1]) if (n.wants(input)) n.add(input, only(n));
    },
  },
};

/** Operators that stand at the end of the way back, or after it: nothing is differentiated through them. */
export const withoutGradient: ReadonlySet<string> = new Set([
  'linear_input_gradient',
  'linear_weight_gradient',
  'layer_norm_gradient',
  'attention_gradient',
  'concat_rows_gradient',
  'place_columns',
  'patch_embedding_gradient',
  'patch_gather_gradient',
  'patch_scatter_gradient',
  'masked_l1_gradient',
  'activation_gradient',
  'gate_gradient',
  'column_sums',
  'gradient_norm',
  'adamw',
]);
