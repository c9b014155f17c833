import type { NativeGraph, NativeWeights, TensorType } from '../../src/bindings.js';
import { Graph, type Value as GraphValue } from '../../src/graph/graph.js';
import { first } from '../../src/graph/operators.js';
import { patchesPerTarget } from '../../src/models/masked_transformer_decoder.js';
import { clipVisionGraph } from '../../src/models/clip_vision.js';
import { omniIdHeadGraph } from '../../src/models/omni_id_encoder.js';
import { stepGraph } from '../../src/train/step_graph.js';
import { configOf, type Size } from '../fixtures.js';
import { layoutOf, optimizer, stepModel, stepShape, trainingCase } from '../training/cases.js';
import { procedural, proceduralWeight } from '../../test/support/procedural.js';

type Value = NativeGraph['values'][number];

/** One operator by itself, at the types that the encoder uses it with. */
export interface KernelCase {
  readonly op: string;
  readonly size: Size;
  readonly dtype: 'f32' | 'bf16';
  /** A graph of this one node. Inputs and outputs are named `v<index>`. */
  readonly graph: NativeGraph;
  /** Indices of the outputs among the graph's values. */
  readonly outputs: readonly number[];
}

/** Photos at which each size is measured. */
const photosAt: Record<Size, number> = { tiny: 3, 'nano-synth': 32, nano: 32, l: 4, h: 4 };

/** The graphs that the encoder runs: tower, and head for one identity. */
function encoderGraphs(size: Size, dtype: 'f32' | 'bf16'): Graph[] {
  const config = configOf(size);
  const photos = photosAt[size];
  return [
    clipVisionGraph(config.vision, dtype, photos, 'last_hidden_state'),
    omniIdHeadGraph(config, dtype, photos, 1),
  ];
}

/** Sizes whose training is measured: at others the optimizer's vectors alone fill a machine's memory. */
const trained: readonly Size[] = ['tiny', 'nano'];

/** A step of training: forward and back, and the optimizer with a moving average, so that it does all that it can. */
function trainingGraph(size: Size, dtype: 'f32' | 'bf16'): Graph {
  const one = trainingCase(size);
  const layout = layoutOf(one);
  const { betas, epsilon } = optimizer;
  const vectors = { betas, epsilon, average: true, size: layout.size, segments: layout.slots.length };
  const kind = { gradients: 'new', update: true, show: false } as const;
  return stepGraph(stepModel(one, dtype), stepShape(one), kind, vectors);
}

/** Operators that a step of this model happens not to need, at its sizes: sums and columns of gradients, unfused activations, gates, gradients by pixels. */
function otherGraph(size: Size, dtype: 'f32' | 'bf16'): Graph {
  const { identities, targets, decoder, visible } = trainingCase(size);
  const { imageSize, patchSize, width, mlpRatio } = decoder;
  const count = identities * targets;
  const rows = count * patchesPerTarget(decoder);
  const graph = new Graph();
  const output = (name: string, values: readonly GraphValue[]): void => {
    graph.output(name, first(values));
  };
  const [a, b] = ['a', 'b'].map((name) => graph.input(name, dtype, [rows, width]));
  output('sum', graph.apply('add', [a, b]));
  output('placed', graph.apply('place_columns', [a], { column: width, columns: 3 * width }));
  const [gradient, product] = ['gradient', 'product'].map((name) =>
    graph.input(name, dtype, [rows, Math.round(width * mlpRatio)]),
  );
  output('unfused', graph.apply('activation_gradient', [gradient, product], { activation: 'gelu' }));
  // Of a gate for every target, as linear has it: its kept product is f32.
  const gate = graph.input('gate', 'f32', [count, width]);
  const [dy, value] = ['dy', 'value'].map((name) => graph.input(name, 'f32', [rows, width]));
  output('gated', graph.apply('gate_gradient', [dy, gate, value], { output: dtype }));
  const patches = graph.input('patches', dtype, [count * visible, 3 * patchSize ** 2]);
  const where = graph.input('visible', 'i32', [count * visible]);
  const images = { patch: patchSize, images: count, channels: 3, height: imageSize, width: imageSize };
  output('pixels', graph.apply('patch_gather_gradient', [patches, where], images));
  return graph;
}

/** The node by itself: what other nodes computed becomes an input, weights stay weights, and columns stay columns of a wider matrix. */
function alone({ values, nodes }: NativeGraph, index: number): Pick<KernelCase, 'graph' | 'outputs'> {
  const node = nodes[index];
  if (!node) throw new Error('unreachable');
  const own: Value[] = [];
  const places = new Map<number, number>();
  const place = (old: number): number => {
    const known = places.get(old);
    if (known !== undefined) return known;
    const value = values[old];
    if (!value) throw new Error('unreachable');
    const source = value.kind === 'view' ? place(value.source) : -1;
    const at = own.length;
    if (value.kind === 'view') own.push({ ...value, source });
    else if (value.kind === 'weight') own.push(value);
    else own.push({ kind: 'input', name: `v${at}`, dtype: value.dtype, shape: value.shape });
    places.set(old, at);
    return at;
  };
  const inputs = node.inputs.map((input) => (input === null ? null : place(input)));
  const results = node.outputs.map((output) => values[output]);
  return finished(own, { ...node, inputs }, results);
}

/** The graph of a node whose outputs have these types. */
function finished(
  values: readonly Value[],
  node: Omit<NativeGraph['nodes'][number], 'outputs'>,
  results: readonly (TensorType | undefined)[],
): Pick<KernelCase, 'graph' | 'outputs'> {
  const all = [...values];
  const outputs = results.map((result) => {
    if (!result) throw new Error('unreachable');
    return all.push({ kind: 'result', dtype: result.dtype, shape: result.shape }) - 1;
  });
  const named = outputs.map((value) => ({ name: `v${value}`, value }));
  return { graph: { values: all, nodes: [{ ...node, outputs }], outputs: named }, outputs };
}

/** Every use of every operator in the encoder and in a step of its training, each once. */
export function kernelCases(size: Size, dtype: 'f32' | 'bf16'): KernelCase[] {
  const training = trained.includes(size) ? [trainingGraph(size, dtype), otherGraph(size, dtype)] : [];
  const cases = new Map<string, KernelCase>();
  for (const graph of [...encoderGraphs(size, dtype), ...training].map((one) => one.toNative())) {
    for (const [i, node] of graph.nodes.entries()) {
      const single = alone(graph, i);
      const types = single.graph.values.map(({ dtype: type, shape, kind }) => [kind, type, shape]);
      const key = JSON.stringify([node.op, node.attributes, types]);
      if (!cases.has(key)) cases.set(key, { op: node.op, size, dtype, ...single });
    }
  }
  return [...cases.values()];
}

/** Offsets that cut `rows` into as many pieces as there is room for. */
function evenOffsets(count: number, rows: number): number[] {
  return Array.from({ length: count }, (_, i) => Math.round((i * rows) / Math.max(1, count - 1)));
}

/**
 * Values of an index input, which must fit the others.
 * @throws an error for an operator that is not known here: a new one with index inputs needs a line
 */
function indices(one: KernelCase, input: number): Int32Array {
  const node = one.graph.nodes[0];
  const shapeAt = (position: number): readonly number[] =>
    one.graph.values[node?.inputs[position] ?? -1]?.shape ?? [];
  const position = node?.inputs.indexOf(input) ?? -1;
  const count = shapeAt(position)[0] ?? 0;
  const rows = one.graph.values[one.outputs[0] ?? -1]?.shape[0] ?? 0;
  switch (`${one.op} ${position}`) {
    case 'attention 3':
      return Int32Array.from(evenOffsets(count, shapeAt(0)[0] ?? 0));
    case 'attention 4':
    case 'attention_gradient 6':
      return Int32Array.from(evenOffsets(count, shapeAt(1)[0] ?? 0));
    case 'attention_gradient 7':
      return Int32Array.from(evenOffsets(count, shapeAt(2)[0] ?? 0));
    case 'concat_rows 1': {
      const last = Math.max(0, (shapeAt(0)[0] ?? 0) - Math.ceil(rows / count));
      return Int32Array.from({ length: count }, (_, i) => Math.floor((i * last) / count));
    }
    case 'concat_rows 2':
      return Int32Array.from(evenOffsets(count, rows));
    case 'concat_rows_gradient 1': {
      const last = Math.max(0, rows - Math.ceil((shapeAt(0)[0] ?? 0) / count));
      return Int32Array.from({ length: count }, (_, i) => Math.floor((i * last) / count));
    }
    case 'concat_rows_gradient 2':
      return Int32Array.from(evenOffsets(count, shapeAt(0)[0] ?? 0));
    case 'patch_gather 1':
    case 'patch_gather_gradient 1':
    case 'patch_scatter 1':
    case 'patch_scatter_gradient 1': {
      // The first patches of every image.
      const images = Number(node?.attributes['images'] ?? shapeAt(0)[0]);
      return Int32Array.from({ length: count }, (_, i) => i % (count / images));
    }
    case 'gradient_norm 1':
    case 'adamw 6':
      return Int32Array.from(evenOffsets(count, shapeAt(0)[0] ?? 0));
    default:
      throw new Error(`the benchmark has no values for index input ${position} of ${one.op}`);
  }
}

/** Values of an input that numbers around 0 do not fit, of an operator that needs others. */
function special(one: KernelCase, input: number, elements: number): Float32Array | undefined {
  const position = one.graph.nodes[0]?.inputs.indexOf(input) ?? -1;
  switch (`${one.op} ${position}`) {
    case 'masked_l1 2': // the mask
    case 'masked_l1_gradient 2':
      return procedural('mask', elements, 0.5, 0.5);
    case 'masked_l1 3': // what the sum is divided by
    case 'masked_l1_gradient 3':
    case 'adamw 4': // the norm
      return procedural('positive', elements, 3, 1);
    case 'adamw 3': // second moments
      return procedural('moments', elements, 1, 0.5);
    case 'adamw 5':
      return Float32Array.of(optimizer.learningRate, 0.1, 0.05, optimizer.clipGradNorm, 0.999);
    default:
      return undefined;
  }
}

/** Values of every input of a case, by name. */
export function inputValues(one: KernelCase): Map<string, Float32Array | Int32Array> {
  const values = new Map<string, Float32Array | Int32Array>();
  for (const [i, value] of one.graph.values.entries()) {
    if (value.kind !== 'input') continue;
    const elements = value.shape.reduce((product, n) => product * n, 1);
    values.set(
      value.name,
      value.dtype === 'i32'
        ? indices(one, i)
        : (special(one, i, elements) ?? procedural(value.name, elements, 0, 1.7)),
    );
  }
  return values;
}

/** Weights of a case in a store. The values follow from their names, the same for everybody. */
export function setWeights(one: KernelCase, weights: NativeWeights): void {
  for (const value of one.graph.values) {
    if (value.kind !== 'weight') continue;
    const shape = [(value.shape[0] ?? 1) / value.parts.length, ...value.shape.slice(1)];
    for (const name of value.parts) weights.set(name, shape, proceduralWeight(name, shape));
  }
}
