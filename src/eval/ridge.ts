import { setImmediate } from 'node:timers/promises';
import { ArgumentError } from '../errors.js';
import type { ComputeOptions } from '../models/model.js';
import { cholesky, choleskySolve } from './cholesky.js';
import { featureProducts } from './gram.js';
import { counted } from '../text.js';

/** People as a probe sees them. */
export interface ProbeSet {
  readonly people: number;
  /** [people, width] */
  readonly features: Float32Array;
  /** [people, labels]: what is told from the features. */
  readonly labels: Float32Array;
}

/** How well labels can be told from features by a linear map. */
export interface ProbeResult {
  /** Of each label, on people that it was not fitted to: 1 − squared error / squared distance from their mean. */
  readonly r2: readonly number[];
  readonly meanR2: number;
  /** What was chosen for each label, as a share of the features' variance. */
  readonly penalties: readonly number[];
}

/**
 * Ridge penalties to choose from, in mean squared distances of a person's features from their mean. Below the first, rounding of f32 products
 * would count.
 */
const penalties = [1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100, 1000];

/** Every fifth of the people that a probe is fitted to is held back to choose the penalty. */
const validationEvery = 5;

/** Products of features: of the fitted people with each other, and of others with them. */
interface Kernel {
  readonly fitted: number;
  /** [fitted, fitted] */
  readonly own: Float64Array;
  readonly others: number;
  /** [others, fitted] */
  readonly cross: Float64Array;
  /** [fitted, labels] */
  readonly labels: Float64Array;
}

function pick(
  products: Float64Array,
  width: number,
  rows: readonly number[],
  columns: readonly number[],
): Float64Array {
  const picked = new Float64Array(rows.length * columns.length);
  let i = 0;
  for (const row of rows) for (const column of columns) picked[i++] = products[row * width + column] ?? NaN;
  return picked;
}

/** Moves the origin of all features to the fitted people's mean, which gives the probe its intercept. */
function centre(kernel: Kernel): void {
  const { fitted: n, own, others, cross } = kernel;
  const means = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    let sum = 0;
    for (let j = 0; j < n; j++) sum += own[i * n + j] ?? NaN;
    means[i] = sum / n;
  }
  const total = means.reduce((sum, mean) => sum + mean, 0) / n;
  for (let row = 0; row < others; row++) {
    let sum = 0;
    for (let j = 0; j < n; j++) sum += cross[row * n + j] ?? NaN;
    for (let j = 0; j < n; j++)
      cross[row * n + j] = (cross[row * n + j] ?? NaN) - sum / n - (means[j] ?? NaN) + total;
  }
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n; j++)
      own[i * n + j] = (own[i * n + j] ?? NaN) - (means[i] ?? NaN) - (means[j] ?? NaN) + total;
}

/**
 * What ridge regression in its dual form says of the others: cross · (own + penalty · scale)⁻¹ · labels. It needs products of features only, so
 * that these may be as wide as all tokens of ℓ together.
 * @returns [others, labels], or undefined when rounding makes the system singular
 */
function predict(kernel: Kernel, penalty: number, columns: number): Float64Array | undefined {
  const { fitted: n, own, others, cross, labels } = kernel;
  let trace = 0;
  for (let i = 0; i < n; i++) trace += own[i * n + i] ?? NaN;
  // Features that do not differ between people tell nothing: the mean is all there is to say.
  const system = own.slice();
  const ridge = trace > 0 ? (penalty * trace) / n : 1;
  for (let i = 0; i < n; i++) system[i * n + i] = (system[i * n + i] ?? NaN) + ridge;
  if (!cholesky(system, n)) return undefined;
  const means = new Float64Array(columns);
  for (let i = 0; i < n * columns; i++)
    means[i % columns] = (means[i % columns] ?? 0) + (labels[i] ?? NaN) / n;
  const weights = labels.map((label, i) => label - (means[i % columns] ?? NaN));
  choleskySolve(system, n, weights, columns);
  const said = new Float64Array(others * columns);
  for (let row = 0; row < others; row++) {
    for (let column = 0; column < columns; column++) {
      let sum = means[column] ?? NaN;
      for (let j = 0; j < n; j++) sum += (cross[row * n + j] ?? NaN) * (weights[j * columns + column] ?? NaN);
      said[row * columns + column] = sum;
    }
  }
  return said;
}

function r2Of(said: Float64Array, labels: Float64Array, columns: number): number[] {
  const rows = labels.length / columns;
  return Array.from({ length: columns }, (_, column) => {
    let mean = 0;
    for (let row = 0; row < rows; row++) mean += (labels[row * columns + column] ?? NaN) / rows;
    let error = 0;
    let spread = 0;
    for (let row = 0; row < rows; row++) {
      const label = labels[row * columns + column] ?? NaN;
      error += (label - (said[row * columns + column] ?? NaN)) ** 2;
      spread += (label - mean) ** 2;
    }
    return 1 - error / spread;
  });
}

/**
 * A linear probe: ridge regression with an intercept from features to labels, fitted to some people and tested on others. Each label's penalty is the one
 * that does best on a fifth of the people to fit, which are held back for that; then all of them are fitted.
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT` for fewer than 10 people to fit or 2 to test; the signal's reason when aborted
 */
export async function linearProbe(
  train: ProbeSet,
  test: ProbeSet,
  options: ComputeOptions & { signal?: AbortSignal | undefined } = {},
): Promise<ProbeResult> {
  const [n, m] = [train.people, test.people];
  if (n < 10 || m < 2)
    throw new ArgumentError(
      `a probe of ${counted(n, 'person')} to fit and ${m} to test, expected at least 10 and 2`,
    );
  const columns = train.labels.length / n;
  const width = train.features.length / n;
  const products = await featureProducts(centred(train, test, width), n + m, width, n, options);

  const all = Array.from({ length: n }, (_, i) => i);
  const testing = Array.from({ length: m }, (_, i) => n + i);
  const labels = Float64Array.from([...train.labels, ...test.labels]);
  const labelColumns = Array.from({ length: columns }, (_, i) => i);
  const kernelOf = (fitted: readonly number[], others: readonly number[]): Kernel => {
    const kernel = {
      fitted: fitted.length,
      own: pick(products, n, fitted, fitted),
      others: others.length,
      cross: pick(products, n, others, fitted),
      labels: pick(labels, columns, fitted, labelColumns),
    };
    centre(kernel);
    return kernel;
  };
  /** R² on the others with each penalty, or with those that are wanted. */
  const scores = async (fitted: readonly number[], others: readonly number[], wanted: readonly number[]) => {
    const kernel = kernelOf(fitted, others);
    const truth = pick(labels, columns, others, labelColumns);
    const found = new Map<number, number[]>();
    for (const penalty of wanted) {
      const said = predict(kernel, penalty, columns);
      if (said) found.set(penalty, r2Of(said, truth, columns));
      await setImmediate(); // each takes a good part of a second
      options.signal?.throwIfAborted();
    }
    return found;
  };

  const heldBack = all.filter((i) => i % validationEvery === validationEvery - 1);
  const rest = all.filter((i) => i % validationEvery !== validationEvery - 1);
  const tried = await scores(rest, heldBack, penalties);
  const chosen = labelColumns.map((column) => {
    const best = [...tried].sort(([, a], [, b]) => (b[column] ?? NaN) - (a[column] ?? NaN))[0];
    return best?.[0] ?? Math.max(...penalties);
  });
  const final = await scores(all, testing, [...new Set(chosen)]);
  const r2 = chosen.map((penalty, column) => final.get(penalty)?.[column] ?? NaN);
  return { r2, meanR2: r2.reduce((sum, value) => sum + value, 0) / columns, penalties: chosen };
}

/** Features of both sets, less the mean of those to fit: their products are small differences otherwise. */
function centred(train: ProbeSet, test: ProbeSet, width: number): Float32Array {
  const means = new Float64Array(width);
  for (const [i, value] of train.features.entries())
    means[i % width] = (means[i % width] ?? 0) + value / train.people;
  const features = new Float32Array(train.features.length + test.features.length);
  features.set(train.features);
  features.set(test.features, train.features.length);
  for (let i = 0; i < features.length; i++) features[i] = (features[i] ?? NaN) - (means[i % width] ?? NaN);
  return features;
}
