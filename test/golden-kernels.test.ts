// Attention and its gradients against torch's scaled_dot_product_attention, through the operators themselves.
import { test } from 'uvu';
import { native } from '../src/bindings.js';
import { Graph } from '../src/graph/graph.js';
import { attention } from '../src/graph/operators.js';
import { backward } from '../src/graph/backward.js';
import { openDevice } from '../src/graph/devices.js';
import { Session } from '../src/graph/session.js';
import { assertClose, largest, relativeError } from './support/assert_close.js';
import { golden, tensorOf } from './support/golden.js';

const { io } = await golden('kernels');
const cases = [...io.keys()].filter((name) => name.endsWith('.out')).map((name) => name.slice(0, -4));
if (cases.length === 0) throw new Error('the case kernels holds no attention');

type Name = 'q' | 'k' | 'v' | 'grad_out';

/** Runs a graph of the case's tensors, and compares every output with the tensor of its name. */
async function compare(
  session: Session,
  name: string,
  inputs: readonly Name[],
  outputs: readonly string[],
  build: (
    graph: Graph,
    value: (name: Name) => ReturnType<Graph['input']>,
    batch: number,
    heads: number,
  ) => void,
): Promise<void> {
  const tensors = new Map([...inputs, ...outputs].map((part) => [part, tensorOf(io, `${name}.${part}`)]));
  const [batch = 0, queries = 0, heads = 0, headDim = 0] = tensors.get('q')?.shape ?? [];
  const keys = tensors.get('k')?.shape[1] ?? 0;
  const places = Object.fromEntries(
    [...tensors].map(([part, { data }]) => {
      const tensor = session.tensor({ dtype: 'f32', shape: [data.length] });
      if (!outputs.includes(part)) tensor.write(data, 0);
      return [part, { tensor, element: 0 }];
    }),
  );
  const plan = await session.plan(`${name} ${outputs.join()}`, () => {
    const graph = new Graph({ trainable: () => false, recompute: false });
    const value = (part: Name): ReturnType<Graph['input']> => {
      const rows = batch * (part === 'k' || part === 'v' ? keys : queries);
      return graph.input(part, 'f32', [rows, heads * headDim]);
    };
    build(graph, value, batch, heads);
    return graph;
  });
  await session.run(plan, places);
  for (const part of outputs) {
    const expected = tensors.get(part)?.data ?? new Float32Array();
    const actual = places[part]?.tensor.read(0, expected.length) as Float32Array;
    if (keys === 1 && /^grad_[qk]$/.test(part)) {
      // The weight of an only key is 1, whatever its score: what either side computes is rounding, which is compared with the gradient beside it.
      const beside = largest(tensorOf(io, `${name}.grad_v`).data);
      for (const zero of [actual, expected]) {
        if (!(largest(zero) <= 1e-5 * beside))
          throw new Error(`${name} ${part} is ${largest(zero)}, expected 0`);
      }
      continue;
    }
    console.log(
      `  ${name} ${part} [${batch}, ${queries}, ${heads}, ${headDim}] on ${keys} keys: relative error ${relativeError(actual, expected).toExponential(2)}`,
    );
    assertClose(actual, expected, 1e-4, `${name} ${part}`);
  }
}

test('kernels: attention f32', async () => {
  const session = new Session(openDevice({}), new (native().Weights)());
  for (const name of cases) {
    await compare(session, name, ['q', 'k', 'v'], ['out'], (graph, value, sequences, heads) => {
      graph.output('out', attention(value('q'), value('k'), value('v'), { heads, sequences }));
    });
  }
  session.dispose();
});

test('kernels: gradients of attention f32', async () => {
  const session = new Session(openDevice({}), new (native().Weights)());
  for (const name of cases) {
    const outputs = ['grad_q', 'grad_k', 'grad_v'];
    await compare(session, name, ['q', 'k', 'v', 'grad_out'], outputs, (graph, value, sequences, heads) => {
      const [q, k, v] = [value('q'), value('k'), value('v')];
      const out = attention(q, k, v, { heads, sequences });
      const gradients = backward(graph, [{ value: out, gradient: value('grad_out') }], [q, k, v]);
      for (const [i, gradient] of gradients.entries())
        if (gradient) graph.output(`grad_${'qkv'[i] ?? ''}`, gradient);
    });
  }
  session.dispose();
});

test.run();
