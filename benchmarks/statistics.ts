/** The middle value; NaN of nothing. */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** The value below which the share `q` of the samples lies, with linear interpolation (R's type 7); NaN of nothing. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (sorted.length - 1) * q;
  const below = sorted[Math.floor(at)] ?? NaN;
  const above = sorted[Math.ceil(at)] ?? NaN;
  return below + (above - below) * (at - Math.floor(at));
}

/**
 * Standard error of a median, estimated robustly: one sample in ten that the machine spoilt must not hide a change. The deviation is 1.4826 times
 * the median absolute deviation (that of a normal distribution), the error of a median sqrt(π / 2 / n) of it.
 * @returns undefined for fewer than three samples, of which nothing can be said
 */
export function medianError(values: readonly number[]): number | undefined {
  if (values.length < 3) return undefined;
  const middle = median(values);
  const deviation = 1.4826 * median(values.map((value) => Math.abs(value - middle)));
  return deviation * Math.sqrt(Math.PI / 2 / values.length);
}
