import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { native, type OperatorCase } from '../src/bindings.js';
import { backward } from '../src/graph/backward.js';
import { gradientRules, withoutGradient } from '../src/graph/gradients.js';
import { Graph, type Value } from '../src/graph/graph.js';
import { assertGradients } from './support/finite_differences.js';
import { NormalNumbers } from './support/normal.js';

const test = suite('gradients');

const training = { trainable: () => true, recompute: false };

/** What a graph that is trained asks of an operator beside its case's attributes. */
function trained(op: string, { attributes, inputs }: OperatorCase): Record<string, number | string> {
  if (op === 'attention') return { ...attributes, statistics: 1 };
  const activated = (attributes['activation'] ?? 'none') !== 'none';
  if (op === 'linear' && (activated || inputs[4])) return { ...attributes, keep: 1 };
  return { ...attributes };
}

/** The operator's first result and its gradients by all inputs that its rule names, as one graph. */
function build(op: string, one: OperatorCase): { graph: Graph; cotangent: Value; by: { name: string }[] } {
  const graph = new Graph(training);
  const inputs = one.inputs.map((input) =>
    input ? graph.input(input.name, input.role === 'index' ? 'i32' : 'f32', input.shape) : undefined,
  );
  const [y] = graph.apply(op, inputs, trained(op, one));
  if (!y) throw new Error('no result');
  graph.output('y', y);
  const cotangent = graph.input('cotangent', y.dtype, y.shape);
  const by = one.inputs.flatMap((input) =>
    input && gradientRules[op]?.by.includes(input.name) ? [{ name: input.name }] : [],
  );
  const values = by.map(({ name }) => need(graph.inputs.get(name)));
  for (const [i, gradient] of backward(graph, [{ value: y, gradient: cotangent }], values).entries()) {
    if (!gradient) throw new Error(`${op} gives no gradient by ${by[i]?.name ?? ''}`);
    graph.output(`gradient of ${by[i]?.name ?? ''}`, gradient);
  }
  return { graph, cotangent, by };
}

function need<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('a value is missing');
  return value;
}

for (const op of native().operators()) {
  const rule = gradientRules[op];
  if (withoutGradient.has(op)) {
    test(`${op} stands at the end of the way back`, () => {
      assert.is(rule, undefined);
    });
    continue;
  }
  test(`${op}: gradients against finite differences`, () => {
    assert.ok(rule, `${op} has no gradient`);
    const seen = new Set<string>();
    let compared = 0;
    for (const [index, one] of native().operatorCases(op).entries()) {
      if (one.inputs.some((input) => input?.shape.includes(0) === true)) continue;
      const { graph, cotangent, by } = build(op, one);
      const random = new NormalNumbers(index + 17);
      const values: Record<string, Float64Array> = {};
      for (const input of one.inputs) if (input) values[input.name] = input.values;
      values['cotangent'] = random.array(cotangent.shape.reduce((a, b) => a * b, 1));
      const names = by.map(({ name }) => name);
      for (const name of names) seen.add(name);
      const cotangents = { y: 'cotangent' };
      compared += assertGradients({ graph, values, cotangents, by: names, random }, `${op}, case ${index}`);
    }
    assert.ok(compared > 0, `${op} has no gradient case`);
    assert.equal([...seen].sort(), [...rule.by].sort(), `${op}: every input that it is differentiated by`);
  });
  test(`${op}: its rule names every input`, () => {
    const names = new Set(
      native()
        .operatorCases(op)
        .flatMap((one) =>
          one.inputs.flatMap((input) => (input && input.role !== 'index' ? [input.name] : [])),
        ),
    );
    assert.equal([...names].sort(), [...(rule?.by ?? []), ...(rule?.data ?? [])].sort());
  });
}

test('what is known of a gradient is added to: two seeds on one value, a value used twice, and sums from before', () => {
  const graph = new Graph(training);
  const x = graph.input('x', 'f32', [1, 3]);
  const [y] = graph.apply('add', [x, x]);
  if (!y) throw new Error('no result');
  const seeds = ['a', 'b'].map((name) => ({ value: y, gradient: graph.input(name, 'f32', [1, 3]) }));
  const before = graph.input('before', 'f32', [1, 3]);
  const [gradient] = backward(graph, seeds, [x], new Map([[x.index, before]]));
  graph.output('gradient', need(gradient));
  const values = (scale: number): Float64Array => Float64Array.of(scale, 2 * scale, 3 * scale);
  const inputs = { x: values(1), a: values(10), b: values(100), before: values(1000) };
  const { gradient: found } = native().evaluateReference(graph.toNative(), inputs);
  assert.equal([...need(found)], [1220, 2440, 3660]);
});

test.run();
