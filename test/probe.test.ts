// The linear probe: what is linear is found, what is not there is not, and the solver solves.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { cholesky, choleskySolve } from '../src/eval/cholesky.js';
import { featureProducts } from '../src/eval/gram.js';
import { linearProbe, type ProbeSet } from '../src/eval/ridge.js';
import { estimate, estimateByPerson } from '../src/eval/statistics.js';
import { assertClose } from './support/assert_close.js';
import { assertRejects, errorOf } from './support/errors.js';
import { procedural } from './support/procedural.js';

const f64 = (name: string, elements: number): Float64Array =>
  Float64Array.from(procedural(name, elements, 0, 1));

/** Features that are noise, and labels that the caller makes of a person's features. */
function people(
  name: string,
  count: number,
  width: number,
  labelsOf: (features: Float32Array, person: number) => number[],
): ProbeSet {
  const features = procedural(name, count * width, 0.3, 1);
  const labels = Array.from({ length: count }, (_, i) =>
    labelsOf(features.subarray(i * width, (i + 1) * width), i),
  );
  return { people: count, features, labels: Float32Array.from(labels.flat()) };
}

test('Cholesky solves A · X = B, and refuses what is not positive definite', () => {
  const n = 40;
  const b = f64('b', n * n);
  const a = new Float64Array(n * n);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n; j++)
      for (let k = 0; k < n; k++)
        a[i * n + j] = (a[i * n + j] ?? 0) + (b[i * n + k] ?? 0) * (b[j * n + k] ?? 0);
  for (let i = 0; i < n; i++) a[i * n + i] = (a[i * n + i] ?? 0) + 1;
  const x = f64('x', n * 3);
  const right = new Float64Array(n * 3);
  for (let i = 0; i < n; i++)
    for (let c = 0; c < 3; c++)
      for (let k = 0; k < n; k++)
        right[i * 3 + c] = (right[i * 3 + c] ?? 0) + (a[i * n + k] ?? 0) * (x[k * 3 + c] ?? 0);
  assert.ok(cholesky(a, n));
  choleskySolve(a, n, right, 3);
  assertClose(Float32Array.from(right), Float32Array.from(x), 1e-6, 'solution');
  assert.not(cholesky(Float64Array.of(1, 0, 2, 1), 2), 'eigenvalues 3 and −1');
  assert.not(cholesky(Float64Array.of(NaN), 1));
});

test('products of features wider than a run', async () => {
  const [rows, width, fitted] = [5, 9001, 3];
  const features = procedural('wide', rows * width, 0, 1);
  const actual = await featureProducts(features, rows, width, fitted, { threads: 2 });
  const expected = Array.from({ length: rows * fitted }, (_, i) => {
    const [a, b] = [Math.floor(i / fitted) * width, (i % fitted) * width];
    let sum = 0;
    for (let k = 0; k < width; k++) sum += (features[a + k] ?? NaN) * (features[b + k] ?? NaN);
    return sum;
  });
  assertClose(Float32Array.from(actual), Float32Array.from(expected), 1e-5, 'products');
});

for (const [kind, width] of [
  ['narrow', 12],
  ['wide', 300],
] as const) {
  test(`a planted linear relation is found in ${kind} features, also with an offset`, async () => {
    const plane = procedural(`plane ${width}`, width, 0, 1);
    // In wide features, fewer directions than people carry what there is.
    const planted = (features: Float32Array): number[] => {
      if (width > 100)
        for (let i = 40; i < width; i++) features[i] = (features[i % 40] ?? 0) * (plane[i] ?? 0);
      const sum = features.reduce((total, value, i) => total + value * (plane[i] ?? 0), 0);
      return [sum + 100, -3 * (features[0] ?? 0)];
    };
    const result = await linearProbe(
      people('train', 200, width, planted),
      people('test', 50, width, planted),
    );
    for (const r2 of result.r2) assert.ok(r2 > 0.999, `R² ${r2}`);
    assert.ok(result.meanR2 > 0.999);
  });
}

test('R² is what the noise leaves: half signal, half noise', async () => {
  const noise = procedural('noise', 5000, 0, 1);
  const half = (offset: number) => (features: Float32Array, person: number): number[] => [(features[0] ?? 0) - 0.3 + (noise[offset + person] ?? 0)]; // prettier-ignore
  const { r2 } = await linearProbe(
    people('half', 800, 10, half(0)),
    people('half test', 800, 10, half(2000)),
  );
  assert.ok(Math.abs((r2[0] ?? NaN) - 0.5) < 0.07, `R² ${r2[0]}`);
});

test('noise tells nothing: R² is about 0, not far below', async () => {
  const noise = procedural('labels', 3000, 0, 1);
  const random =
    (offset: number) =>
    (_: Float32Array, person: number): number[] => [noise[offset + person] ?? 0];
  const { r2, penalties } = await linearProbe(
    people('a', 300, 200, random(0)),
    people('b', 200, 200, random(1000)),
  );
  assert.ok((r2[0] ?? NaN) < 0.05 && (r2[0] ?? NaN) > -0.15, `R² ${r2[0]}`);
  assert.ok((penalties[0] ?? 0) >= 1, 'a strong penalty is chosen');
});

test('features that do not differ between people say the mean', async () => {
  const same = (set: ProbeSet): ProbeSet => ({
    ...set,
    features: new Float32Array(set.features.length).fill(2),
  });
  const labels = (features: Float32Array): number[] => [features[0] ?? 0];
  const { r2 } = await linearProbe(same(people('c', 60, 8, labels)), same(people('d', 30, 8, labels)));
  assert.ok((r2[0] ?? NaN) <= 0 && (r2[0] ?? NaN) > -0.2, `R² ${r2[0]}`);
});

test('too few people, and an aborted call', async () => {
  const set = people('few', 9, 4, () => [1]);
  await assertRejects(() => linearProbe(set, set), 'ERR_INVALID_ARGUMENT', '9 people', 'at least 10');
  const many = people('many', 20, 4, ([x = 0]) => [x]);
  const reason = new Error('enough');
  assert.is(await errorOf(() => linearProbe(many, many, { signal: AbortSignal.abort(reason) })), reason);
});

test('errors of means count people, not targets', () => {
  const { mean, standardError } = estimate([1, 2, 3, 4]);
  assert.is(mean, 2.5);
  assert.ok(Math.abs(standardError - Math.sqrt(5 / 3 / 4)) < 1e-12);
  // Targets of one person repeat each other: as many people, the same error.
  const once = estimateByPerson([1, 2, 4], [0, 1, 2], 3);
  assert.equal(estimateByPerson([1, 1, 2, 2, 4, 4], [0, 0, 1, 1, 2, 2], 3), once);
  assert.equal(estimateByPerson([1, NaN, 2, 4, NaN], [0, 0, 1, 2, 3], 4), once, 'without what is not there');
  assert.ok(Number.isNaN(estimate([1]).standardError));
});

test.run();
