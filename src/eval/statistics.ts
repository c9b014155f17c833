/** A mean and how far it may be off. */
export interface Estimate {
  readonly mean: number;
  /** Standard error of the mean; NaN of fewer than two people. */
  readonly standardError: number;
}

/** The mean of numbers that have nothing to do with each other. */
export function estimate(values: readonly number[]): Estimate {
  const n = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, standardError: n < 2 ? NaN : Math.sqrt(squares / (n - 1) / n) };
}

/**
 * The mean over people of their means. Targets of one person are alike, so it is people that the error is counted by.
 * @param values NaN where there is nothing to count; a person of whom there is nothing is left out
 * @param people for each value whose it is, from 0 to count − 1
 */
export function estimateByPerson(
  values: ArrayLike<number>,
  people: ArrayLike<number>,
  count: number,
): Estimate {
  const sums = new Float64Array(count);
  const counts = new Float64Array(count);
  for (let i = 0; i < values.length; i++) {
    const value = values[i] ?? NaN;
    const person = people[i] ?? 0;
    if (Number.isNaN(value)) continue;
    sums[person] = (sums[person] ?? 0) + value;
    counts[person] = (counts[person] ?? 0) + 1;
  }
  const means = Array.from(sums, (sum, person) => sum / (counts[person] ?? 0));
  return estimate(means.filter((mean) => !Number.isNaN(mean)));
}
