// Attention against torch's scaled_dot_product_attention, through the operator itself.
import { test } from 'uvu';
import { native } from '../src/bindings.js';
import { Graph } from '../src/graph/graph.js';
import { attention } from '../src/graph/operators.js';
import { openDevice, Session } from '../src/graph/session.js';
import { assertClose, relativeError } from './support/assert_close.js';
import { golden, tensorOf } from './support/golden.js';

test('kernels: attention f32', async () => {
  const { io } = await golden('kernels');
  const cases = [...io.keys()].filter((name) => name.endsWith('.out')).map((name) => name.slice(0, -4));
  if (cases.length === 0) throw new Error('the case kernels holds no attention');
  const session = new Session(openDevice({}), new (native().Weights)());
  for (const name of cases) {
    const [q, k, v, out] = ['q', 'k', 'v', 'out'].map((part) => tensorOf(io, `${name}.${part}`));
    if (!q || !k || !v || !out) throw new Error(`${name} is incomplete`);
    const [batch = 0, queries = 0, heads = 0, headDim = 0] = q.shape;
    const keys = k.shape[1] ?? 0;
    const graph = new Graph();
    const [qs, ks, vs] = (['q', 'k', 'v'] as const).map((input) =>
      graph.input(input, 'f32', [batch * (input === 'q' ? queries : keys), heads * headDim]),
    );
    if (!qs || !ks || !vs) throw new Error('unreachable');
    graph.output('out', attention(qs, ks, vs, { heads, sequences: batch }));
    const places = Object.fromEntries(
      Object.entries({ q, k, v, out }).map(([input, { data }]) => {
        const tensor = session.tensor({ dtype: 'f32', shape: [data.length] });
        if (input !== 'out') tensor.write(data, 0);
        return [input, { tensor, element: 0 }];
      }),
    );
    await session.run(await session.plan(name, () => graph), places);
    const actual = places['out']?.tensor.read(0, out.data.length) as Float32Array;
    console.log(
      `  ${name} [${q.shape.join(', ')}] on ${keys} keys: relative error ${relativeError(actual, out.data).toExponential(2)}`,
    );
    assertClose(actual, out.data, 1e-4, name);
  }
  session.dispose();
});

test.run();
