import type { NativeGraph, NativeWeights, TensorType } from '../../src/bindings.js';
import type { Graph } from '../../src/graph/graph.js';
import { clipVisionGraph } from '../../src/models/clip_vision.js';
import { omniIdHeadGraph } from '../../src/models/omni_id_encoder.js';
import { configOf, type Size } from '../fixtures.js';
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
const photosAt: Record<Size, number> = { tiny: 3, nano: 32, l: 4, h: 4 };

/** The graphs that the encoder runs: tower, and head for one identity. */
function encoderGraphs(size: Size, dtype: 'f32' | 'bf16'): Graph[] {
  const config = configOf(size);
  const photos = photosAt[size];
  return [
    clipVisionGraph(config.vision, dtype, photos, 'last_hidden_state'),
    omniIdHeadGraph(config, dtype, photos, 1),
  ];
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

/** The gradient of an attention, as training computes it, with what the forward gives as inputs. */
function gradientOf(attention: KernelCase): KernelCase {
  const { graph, outputs } = attention;
  const node = graph.nodes[0];
  const heads = node?.attributes['heads'];
  const [q, k, v, ...offsets] = node?.inputs ?? [];
  const types = [q, k, v].map((value) => graph.values[value ?? -1]);
  const [query] = types;
  if (!node || !query || typeof heads !== 'number') throw new Error('unreachable');
  const values = graph.values.filter((_, i) => !outputs.includes(i));
  const input = (dtype: TensorType['dtype'], shape: readonly number[]): number =>
    values.push({ kind: 'input', name: `v${values.length}`, dtype, shape }) - 1;
  const [dout, out] = [input(query.dtype, query.shape), input(query.dtype, query.shape)];
  const logsumexp = input('f32', [query.shape[0] ?? 0, heads]);
  const op = 'attention_gradient';
  const inputs = [dout, q ?? null, k ?? null, v ?? null, out, logsumexp, ...offsets];
  return { ...attention, op, ...finished(values, { ...node, op, inputs }, types) };
}

/** Every use of every operator in the encoder, each once, and the gradients of its attentions. */
export function kernelCases(size: Size, dtype: 'f32' | 'bf16'): KernelCase[] {
  const cases = new Map<string, KernelCase>();
  for (const graph of encoderGraphs(size, dtype).map((one) => one.toNative())) {
    for (const [i, node] of graph.nodes.entries()) {
      const single = alone(graph, i);
      const types = single.graph.values.map(({ dtype: type, shape, kind }) => [kind, type, shape]);
      const key = JSON.stringify([node.op, node.attributes, types]);
      if (!cases.has(key)) cases.set(key, { op: node.op, size, dtype, ...single });
    }
  }
  const gradients = [...cases.values()].filter(({ op }) => op === 'attention').map(gradientOf);
  return [...cases.values(), ...gradients];
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
    default:
      throw new Error(`the benchmark has no values for index input ${position} of ${one.op}`);
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
      value.dtype === 'i32' ? indices(one, i) : procedural(value.name, elements, 0, 1.7),
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
