import * as assert from 'uvu/assert';
import { native } from '../../src/bindings.js';
import type { Graph } from '../../src/graph/graph.js';
import type { NormalNumbers } from './normal.js';

const dot = (a: Float64Array, b: Float64Array): number => a.reduce((sum, x, i) => sum + x * (b[i] ?? 0), 0);
const size = (a: Float64Array): number => Math.sqrt(dot(a, a));

export interface Differentiated {
  readonly graph: Graph;
  /** Of every input of the graph, by name. */
  readonly values: Readonly<Record<string, Float64Array>>;
  /** What is differentiated: the sum over the outputs of this record of output · the input of the name beside it. */
  readonly cotangents: Readonly<Record<string, string>>;
  /** Inputs whose gradients are the graph's outputs `gradient of NAME`. */
  readonly by: readonly string[];
  readonly random: NormalNumbers;
}

/**
 * Compares gradients with central differences along two random directions each, both in double precision through the operators' references.
 * @returns how many were compared
 */
export function assertGradients(
  { graph, values, cotangents, by, random }: Differentiated,
  what: string,
): number {
  const evaluate = (changed: Record<string, Float64Array>): Record<string, Float64Array> =>
    native().evaluateReference(graph.toNative(), { ...values, ...changed });
  const need = (array: Float64Array | undefined): Float64Array => {
    if (!array) throw new Error(`${what}: a value is missing`);
    return array;
  };
  const gradients = evaluate({});
  let compared = 0;
  for (const name of by) {
    const gradient = need(gradients[`gradient of ${name}`]);
    const at = need(values[name]);
    assert.is(gradient.length, at.length, `${what}: gradient by ${name} has another size`);
    for (let direction = 0; direction < 2; direction++) {
      // Of length 1, so that a step is as long in many dimensions as in few.
      const u = random.array(at.length);
      const length = size(u);
      const h = 1e-5;
      const moved = (sign: number): number => {
        const outputs = evaluate({ [name]: at.map((x, i) => x + (sign * h * (u[i] ?? 0)) / length) });
        const terms = Object.entries(cotangents).map(([y, dy]) => dot(need(outputs[y]), need(values[dy])));
        return terms.reduce((sum, term) => sum + term, 0);
      };
      const expected = (moved(1) - moved(-1)) / (2 * h);
      const actual = dot(gradient, u) / length;
      // The difference's own error: h² of the third derivative, and rounding of the sums that are subtracted, over h.
      const tolerance = 1e-6 * (Math.abs(expected) + size(gradient) + 1e-3);
      assert.ok(
        Math.abs(actual - expected) <= tolerance,
        `${what}, by ${name}: ${actual}, finite differences ${expected}`,
      );
      compared++;
    }
  }
  return compared;
}
