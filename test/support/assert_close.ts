/** Largest |a|; NaN anywhere gives NaN. */
export function largest(values: Float32Array): number {
  return values.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
}

/** Largest |a − b| / largest |b|; NaN anywhere gives NaN. */
export function relativeError(actual: Float32Array, expected: Float32Array): number {
  if (actual.length !== expected.length)
    throw new Error(`${actual.length} values, expected ${expected.length}`);
  let difference = 0;
  let scale = 0;
  for (let i = 0; i < expected.length; i++) {
    const a = actual[i] ?? NaN;
    const b = expected[i] ?? NaN;
    if (Number.isNaN(a) || Number.isNaN(b)) return NaN;
    difference = Math.max(difference, Math.abs(a - b));
    scale = Math.max(scale, Math.abs(b));
  }
  return scale === 0 ? difference : difference / scale;
}

/** Smallest cosine between rows of `width` values. */
export function worstCosine(actual: Float32Array, expected: Float32Array, width: number): number {
  if (actual.length !== expected.length)
    throw new Error(`${actual.length} values, expected ${expected.length}`);
  let worst = Infinity;
  for (let row = 0; row < expected.length; row += width) {
    let ab = 0;
    let aa = 0;
    let bb = 0;
    for (let i = row; i < row + width; i++) {
      const a = actual[i] ?? NaN;
      const b = expected[i] ?? NaN;
      ab += a * b;
      aa += a * a;
      bb += b * b;
    }
    const cosine = ab / Math.sqrt(aa * bb);
    if (!(cosine >= worst)) worst = cosine;
  }
  return worst;
}

/** Fails, with the worst element and both values, unless every |a − b| ≤ tolerance · largest |b|. NaN fails. */
export function assertClose(
  actual: Float32Array,
  expected: Float32Array,
  tolerance: number,
  what: string,
): void {
  const error = relativeError(actual, expected);
  if (error <= tolerance) return;
  let at = 0;
  let worst = -1;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs((actual[i] ?? NaN) - (expected[i] ?? NaN));
    if (!(difference <= worst)) [at, worst] = [i, difference];
    if (Number.isNaN(difference)) break;
  }
  throw new Error(
    `${what}: relative error ${error}, at most ${tolerance}; element ${at} is ${actual[at]}, expected ${expected[at]}`,
  );
}

/** Fails unless all bytes are the same: −0 is not 0, and a NaN is the one of the same bits. */
export function assertSameBits(actual: Float32Array, expected: Float32Array, what: string): void {
  if (actual.length !== expected.length)
    throw new Error(`${what}: ${actual.length} values, expected ${expected.length}`);
  const bits = ({ buffer, byteOffset, length }: Float32Array): Uint32Array =>
    new Uint32Array(buffer, byteOffset, length);
  const [a, b] = [bits(actual), bits(expected)];
  const at = a.findIndex((word, i) => word !== b[i]);
  if (at < 0) return;
  const shown = (values: Float32Array, words: Uint32Array): string =>
    `${Object.is(values[at], -0) ? '-0' : values[at]} (0x${(words[at] ?? 0).toString(16).padStart(8, '0')})`;
  throw new Error(`${what}: element ${at} is ${shown(actual, a)}, expected ${shown(expected, b)}`);
}
