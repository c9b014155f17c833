// Gradients of operators that are put together: against finite differences in double precision, and as the engine computes them in f32, with
// what lies in between kept or computed again.
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { native } from '../src/bindings.js';
import { ArgumentError } from '../src/errors.js';
import { backward } from '../src/graph/backward.js';
import { Graph, type Value } from '../src/graph/graph.js';
import { add, attention, concatRows, linear } from '../src/graph/operators.js';
import { openDevice } from '../src/graph/devices.js';
import { Session, type Place } from '../src/graph/session.js';
import { crossAttention, layerNorm, mlp, selfAttention } from '../src/nn/layers.js';
import { Scope } from '../src/nn/scope.js';
import { assertGradients } from './support/finite_differences.js';
import { NormalNumbers } from './support/normal.js';

const test = suite('composed gradients');

interface Model {
  /** Values that are differentiated. */
  readonly outputs: readonly Value[];
  /** Inputs that gradients are asked for by, besides all parameters. */
  readonly by?: readonly Value[];
}

type Build = (w: Scope) => Model;

interface Built {
  readonly graph: Graph;
  readonly values: Record<string, Float64Array>;
  readonly cotangents: Record<string, string>;
  readonly by: string[];
}

/** @param given values of inputs that are not random: indices */
function built(
  build: Build,
  recompute: boolean,
  random: NormalNumbers,
  dtype: 'f32' | 'bf16',
  given: Record<string, Float64Array>,
): Built {
  const graph = new Graph({ trainable: () => true, recompute });
  const { outputs, by: inputs = [] } = build(new Scope(graph, dtype));
  const asked = [...graph.parameters.map(({ value }) => value), ...inputs];
  const nameOf = (value: Value): string =>
    [...graph.inputs].find(([, input]) => input.index === value.index)?.[0] ?? `value ${value.index}`;
  const cotangents: Record<string, string> = {};
  const seeds = outputs.map((value, i) => {
    cotangents[`y ${i}`] = `cotangent ${i}`;
    return { value, gradient: graph.input(`cotangent ${i}`, value.dtype, value.shape) };
  });
  const gradients = backward(graph, seeds, asked);
  for (const [i, value] of outputs.entries()) graph.output(`y ${i}`, value);
  for (const [i, value] of asked.entries()) {
    const gradient = gradients[i];
    if (!gradient) throw new Error(`no gradient by ${nameOf(value)}`);
    assert.is(gradient.dtype, value.dtype);
    graph.output(`gradient of ${nameOf(value)}`, gradient);
  }
  // Of a size that keeps products near 1: scores of an attention that are far apart would make it a choice.
  const drawn = ({ shape, columns }: Value): Float64Array =>
    random.array(shape.reduce((product, n) => product * n, 1)).map((x) => x / Math.sqrt(columns));
  const values = Object.fromEntries(
    [...graph.inputs].map(([name, value]) => [name, given[name] ?? drawn(value)]),
  );
  return { graph, values, cotangents, by: asked.map(nameOf) };
}

/** Runs a graph whose inputs and outputs are f32 or i32 on the engine. */
async function runOnEngine(
  graph: Graph,
  values: Record<string, Float64Array>,
): Promise<Record<string, Float32Array>> {
  const session = new Session(openDevice({ threads: 2 }), new (native().Weights)());
  try {
    const places: Record<string, Place> = {};
    for (const [name, { dtype, shape }] of graph.inputs) {
      const tensor = session.tensor({ dtype, shape });
      tensor.write(
        dtype === 'i32' ? Int32Array.from(values[name] ?? []) : Float32Array.from(values[name] ?? []),
        0,
      );
      places[name] = { tensor, element: 0 };
    }
    const outputs = graph.toNative().outputs.map(({ name, value }) => {
      const type = graph.values[value];
      if (!type) throw new Error('an output is no value');
      const tensor = session.tensor({ dtype: 'f32', shape: type.shape });
      places[name] = { tensor, element: 0 };
      return { name, tensor, count: type.shape.reduce((product, n) => product * n, 1) };
    });
    await session.run(await session.plan('graph', () => graph), places);
    return Object.fromEntries(
      outputs.map(({ name, tensor, count }) => [name, tensor.read(0, count) as Float32Array]),
    );
  } finally {
    session.dispose();
  }
}

function composed(name: string, build: Build, given: Record<string, Float64Array> = {}): void {
  test(name, async () => {
    let kept: Record<string, Float32Array> | undefined;
    for (const recompute of [false, true]) {
      const random = new NormalNumbers(name.length);
      const one = built(build, recompute, random, 'f32', given);
      const compared = assertGradients({ ...one, random }, `${name}${recompute ? ', computed again' : ''}`);
      assert.ok(compared > 0);
      const expected = native().evaluateReference(one.graph.toNative(), one.values);
      const actual = await runOnEngine(one.graph, one.values);
      // A gradient may be zero but for rounding (by a key's bias): errors are told in the size of all of them.
      const largest = Object.values(expected).flatMap((values) => [...values]).reduce((most, x) => Math.max(most, Math.abs(x)), 0); // prettier-ignore
      for (const [output, values] of Object.entries(actual)) {
        for (const [i, value] of values.entries()) {
          const error = Math.abs(value - (expected[output]?.[i] ?? NaN));
          assert.ok(error <= 1e-6 * largest, `${name}: ${output} is ${error} off at ${i}, of ${largest}`);
        }
      }
      if (kept) assert.equal(actual, kept, 'the same bits when computed again');
      kept = actual;
    }
  });
}

const input = (w: Scope, name: string, rows: number, columns: number): Value =>
  w.graph.input(name, w.dtype, [rows, columns]);

composed('an MLP with a fused activation and its residual', (w) => {
  const x = input(w, 'x', 5, 12);
  const y = w.graph.recomputed(() =>
    mlp(w, layerNorm(w.at('norm'), x, { epsilon: 1e-5, output: w.dtype }), 20, 'gelu', x),
  );
  return { outputs: [mlp(w.at('second'), y, 16, 'quick_gelu', y)], by: [x] };
});

composed('queries, keys and values as one product', (w) => {
  const x = input(w, 'x', 6, 16);
  const names = { q: 'q', k: 'k', v: 'v', out: 'out' };
  const attend = (at: Scope, from: Value): Value =>
    w.graph.recomputed(() => selfAttention(at, names, from, from, { heads: 2, sequences: 2 }));
  return { outputs: [attend(w.at(1), attend(w.at(0), x))], by: [x] };
});

composed('keys and values of a context that several layers read', (w) => {
  const [x, z] = [input(w, 'x', 4, 8), input(w, 'z', 6, 12)];
  const names = { q: 'q', k: 'k', v: 'v', out: 'out' };
  const attend = (at: Scope, from: Value): Value =>
    w.graph.recomputed(() => crossAttention(at, names, from, z, from, { heads: 2, sequences: 2 }));
  return { outputs: [attend(w.at(1), attend(w.at(0), x))], by: [x, z] };
});

composed('a value used twice, inside and outside of what is computed again', (w) => {
  const x = input(w, 'x', 3, 8);
  const weight = (name: string): Value => w.matrix(name, [8, 8]);
  const [inner, y] = w.graph.recomputed(() => {
    const hidden = linear(x, weight('a'), { activation: 'gelu' });
    return [hidden, add(linear(hidden, weight('b')), hidden)] as const;
  });
  // The activation's result is read by products and by additions, and is a result of its own.
  return { outputs: [linear(add(y, inner), weight('c'), { residual: y }), inner], by: [x] };
});

composed('a parameter used twice, as a matrix', (w) => {
  const x = input(w, 'x', 3, 8);
  const weight = w.matrix('shared', [8, 8]);
  return { outputs: [linear(linear(x, weight, { activation: 'quick_gelu' }), weight)], by: [x] };
});

composed('columns of a value that leave others out', (w) => {
  const x = input(w, 'x', 5, 6);
  const y = w.graph.recomputed(() => linear(x, w.matrix('a', [14, 6]), { activation: 'gelu' }));
  return { outputs: [linear(w.graph.columns(y, 3, 7), w.matrix('b', [4, 7]))], by: [x] };
});

composed('two views of one value that overlap, and the value itself', (w) => {
  const x = input(w, 'x', 5, 6);
  const y = w.graph.recomputed(() => linear(x, w.matrix('a', [14, 6])));
  const [left, right] = [w.graph.columns(y, 0, 9), w.graph.columns(y, 5, 9)];
  return { outputs: [add(left, right), linear(y, w.matrix('b', [9, 14]), { residual: left })], by: [x] };
});

composed('two views of one value side by side, with one gradient for both', (w) => {
  const x = input(w, 'x', 5, 6);
  const y = linear(x, w.matrix('a', [8, 6]));
  return { outputs: [add(w.graph.columns(y, 0, 4), w.graph.columns(y, 4, 4))], by: [x] };
});

composed('a view of a view', (w) => {
  const x = input(w, 'x', 5, 6);
  const y = w.graph.recomputed(() => linear(x, w.matrix('a', [16, 6])));
  const half = w.graph.columns(y, 4, 12);
  const [a, b] = [w.graph.columns(half, 1, 5), w.graph.columns(half, 6, 5)];
  return { outputs: [linear(a, w.matrix('b', [12, 5]), { residual: half }), add(b, b)], by: [x] };
});

composed('a view of an input and of a parameter', (w) => {
  const x = input(w, 'x', 5, 12);
  const [a, b] = [w.graph.columns(x, 0, 4), w.graph.columns(x, 4, 8)];
  const weight = w.graph.columns(w.vector('wide', [6, 12]), 3, 8);
  const bias = w.graph.columns(w.vector('long', [12]), 2, 6);
  const y = linear(b, weight, { bias });
  return { outputs: [linear(y, w.matrix('c', [4, 6]), { residual: a })], by: [x] };
});

composed('gates that are columns of a modulation, with one row for every image', (w) => {
  const [x, condition] = [input(w, 'x', 6, 8), input(w, 'condition', 2, 5)];
  const modulation = linear(condition, w.matrix('modulation', [16, 5]), { bias: w.vector('shift', [16]) });
  const [attended, projected] = [0, 8].map((column) => w.graph.columns(modulation, column, 8)) as [Value, Value]; // prettier-ignore
  const y = w.graph.recomputed(() =>
    linear(x, w.matrix('a', [8, 8]), { bias: w.vector('b', [8]), residual: x, gate: attended }),
  );
  const z = w.graph.recomputed(() => {
    const inner = linear(layerNorm(w.at('norm'), y, { epsilon: 1e-5 }), w.matrix('c', [12, 8]), { activation: 'gelu' }); // prettier-ignore
    return linear(inner, w.matrix('d', [8, 12]), { residual: y, gate: projected });
  });
  // The first gate is read once more.
  return { outputs: [linear(z, w.matrix('e', [8, 8]), { residual: z, gate: attended })], by: [x, condition] };
});

// The gradient by an activation goes into the product before it, but not past a gate.
for (const activation of ['none', 'gelu'] as const) {
  composed(`a product with what a gate multiplied, activation ${activation}`, (w) => {
    const [x, gate] = [input(w, 'x', 6, 8), input(w, 'gate', 3, 10)];
    const hidden = w.graph.recomputed(() => linear(x, w.matrix('a', [10, 8]), { activation, gate }));
    return { outputs: [linear(hidden, w.matrix('b', [7, 10]))], by: [x, gate] };
  });
}

composed('the same gradient by several', (w) => {
  const [x, y] = [input(w, 'x', 3, 4), input(w, 'y', 3, 4)];
  const sum = add(x, y);
  return { outputs: [add(sum, sum), linear(sum, w.matrix('a', [4, 4]), { residual: w.vector('r', [3, 4]) })], by: [x, y] }; // prettier-ignore
});

composed('results written side by side', (w) => {
  const x = input(w, 'x', 3, 8);
  const [a, b] = [linear(x, w.matrix('a', [5, 8])), linear(x, w.matrix('b', [3, 8]), { activation: 'gelu' })];
  const joined = w.graph.join([a, b]);
  const y = w.graph.recomputed(() => linear(joined, w.matrix('c', [8, 8]), { residual: joined }));
  return { outputs: [add(y, w.graph.join([linear(y, w.matrix('d', [8, 8]))])), linear(w.graph.columns(joined, 4, 4), w.matrix('e', [5, 4]), { residual: a })], by: [x] }; // prettier-ignore
});

composed(
  'rows of a value, some of them twice',
  (w) => {
    const x = input(w, 'x', 5, 8);
    const y = w.graph.recomputed(() => linear(x, w.matrix('a', [24, 8])));
    const starts = w.graph.input('starts', 'i32', [2]);
    const offsets = w.graph.input('offsets', 'i32', [3]);
    const rows = concatRows(y, starts, offsets, 6);
    const [q, k, v] = [0, 8, 16].map((column) => w.graph.columns(rows, column, 8)) as [Value, Value, Value];
    return { outputs: [attention(q, k, v, { heads: 2, sequences: 2 })], by: [x] };
  },
  { starts: Float64Array.of(2, 1), offsets: Float64Array.of(0, 3, 6) },
);

test('the gradient by a view is columns of the whole', () => {
  const graph = new Graph({ trainable: () => true, recompute: false });
  const [x, dy] = ['x', 'dy'].map((name) => graph.input(name, 'f32', [1, 4])) as [Value, Value];
  const middle = graph.columns(x, 1, 2);
  const [y] = graph.apply('add', [x, x]);
  assert.ok(y);
  const gradients = backward(graph, [{ value: y, gradient: dy }], [middle, x, graph.columns(dy, 0, 1)]);
  assert.is(gradients[2], undefined, 'nothing depends on it');
  for (const [i, gradient] of gradients.slice(0, 2).entries()) if (gradient) graph.output(`${i}`, gradient);
  const values = { x: Float64Array.of(1, 2, 3, 4), dy: Float64Array.of(10, 20, 30, 40) };
  const found = native().evaluateReference(graph.toNative(), values);
  assert.equal([...(found['0'] ?? [])], [40, 60]);
  assert.equal([...(found['1'] ?? [])], [20, 40, 60, 80]);
});

/** A bf16 product that is added to a residual in f32, as a value and as a seed of gradients. */
test('a product in bf16 whose residual is f32', () => {
  for (const activation of ['none', 'gelu'] as const) {
    for (const gates of [0, 2]) {
      const random = new NormalNumbers(3);
      const build: Build = (w) => {
        const x = w.graph.input('x', 'bf16', [4, 6]);
        const gate = gates > 0 ? { gate: w.vector('gates', [gates, 8]) } : {};
        const before = linear(x, w.matrix('a', [8, 6]));
        const y = linear(x, w.matrix('b', [8, 6]), { residual: before, activation, output: 'bf16', ...gate });
        // The residual is read once more, so that a gradient in f32 is added to one in bf16, and the other way round.
        return { outputs: [linear(before, w.matrix('c', [5, 8])), y], by: [x] };
      };
      const one = built(build, false, random, 'bf16', {});
      assert.ok(assertGradients({ ...one, random }, `activation ${activation}, ${gates} gates`) > 0);
    }
  }
});

test('the gradient through a gate goes into products in their type; its own is computed when it is asked for', () => {
  for (const dtype of ['f32', 'bf16'] as const) {
    for (const learns of [false, true]) {
      const graph = new Graph({ trainable: () => true, recompute: false });
      const [x, gate] = [graph.input('x', dtype, [4, 6]), graph.input('gate', 'f32', [2, 8])];
      const y = linear(x, new Scope(graph, dtype).matrix('a', [8, 6]), { gate });
      const gradients = backward(
        graph,
        [{ value: y, gradient: graph.input('dy', 'f32', y.shape) }],
        learns ? [x, gate] : [x],
      );
      assert.ok(gradients.every((gradient) => gradient !== undefined));
      const [node, ...others] = graph.nodes.filter(({ op }) => op === 'gate_gradient');
      assert.is(others.length, 0);
      assert.equal(
        node?.outputs.map((output) => output.dtype),
        learns ? [dtype, 'f32'] : [dtype],
      );
      assert.is(
        node?.inputs[2] !== undefined,
        learns,
        'what the gate was multiplied by is read for its own gradient',
      );
    }
  }
});

test('a gate that does not divide the rows, or has other columns, is refused where it is written', () => {
  const graph = new Graph();
  const [x, weight] = [graph.input('x', 'f32', [6, 4]), graph.weight(['w'], 'f32', [5, 4])];
  for (const shape of [[4, 5], [2, 4], [5]]) {
    assert.throws(
      () => linear(x, weight, { gate: graph.input(`gate ${shape.join()}`, 'f32', shape) }),
      (error: unknown) =>
        error instanceof Error &&
        (error as Error & { code?: string }).code === 'ERR_INVALID_ARGUMENT' &&
        error.message.includes(
          `gate is f32[${shape.join(', ')}], expected f32[gates, 5] of gates that divide 6 rows`,
        ),
    );
  }
});

test('columns that are not there are refused where they are asked for', () => {
  const graph = new Graph({ trainable: (name) => name !== 'fixed', recompute: false });
  const refused = (source: Value, first: number, count: number, ...words: string[]): void => {
    assert.throws(
      () => graph.columns(source, first, count),
      (error: unknown) =>
        error instanceof ArgumentError && words.every((word) => error.message.includes(word)),
    );
  };
  const x = graph.input('x', 'f32', [3, 8]);
  for (const [first, count] of [
    [-1, 2],
    [7, 2],
    [0, 0],
    [9, 1],
  ] as const)
    // prettier-ignore
    refused(x, first, count, `[${first}, ${first + count})`, '[3, 8]', 'that are there');
  refused(graph.columns(x, 2, 4), 3, 2, '[3, 4]');
  refused(graph.input('pixels', 'f32', [1, 3, 8, 8]), 0, 4, '[1, 3, 8, 8]', 'a matrix or a vector');
  refused(graph.weight(['fixed'], 'f32', [8, 8]), 0, 4, 'packed');
  const [y] = graph.apply('add', [x, x]);
  assert.ok(y);
  graph.join([y]);
  assert.throws(
    () => graph.join([y]),
    (error: unknown) => error instanceof ArgumentError,
  );
  assert.throws(
    () => graph.join([x]),
    (error: unknown) => error instanceof ArgumentError,
  );
});

test.run();
