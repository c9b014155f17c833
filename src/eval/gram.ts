import { Graph } from '../graph/graph.js';
import { linear } from '../graph/operators.js';
import { newSession, type ComputeOptions } from '../models/model.js';

/** Columns that are multiplied at once: bounds the copy on the device, and f32 sums stay short. */
const columnsPerRun = 4096;

/**
 * X · Yᵀ, with Y the first rows of X: the products of all features with those that a probe is fitted to. The engine multiplies in f32, pieces are
 * added in f64.
 * @param features X, [rows, width]
 * @param fitted rows of Y
 * @returns [rows, fitted]
 */
export async function featureProducts(
  features: Float32Array,
  rows: number,
  width: number,
  fitted: number,
  options: ComputeOptions & { signal?: AbortSignal | undefined },
): Promise<Float64Array> {
  const session = newSession(options);
  const sums = new Float64Array(rows * fitted);
  try {
    for (let first = 0; first < width; first += columnsPerRun) {
      const columns = Math.min(columnsPerRun, width - first);
      const piece = new Float32Array(rows * columns);
      for (let row = 0; row < rows; row++) {
        const from = row * width + first;
        piece.set(features.subarray(from, from + columns), row * columns);
      }
      const x = session.tensor({ dtype: 'f32', shape: [rows, columns] });
      const out = session.tensor({ dtype: 'f32', shape: [rows, fitted] });
      try {
        x.write(piece, 0);
        const plan = await session.plan(`products ${columns}`, () => {
          const graph = new Graph();
          const all = graph.input('all', 'f32', [rows, columns]);
          graph.output('products', linear(all, graph.input('fitted', 'f32', [fitted, columns])));
          return graph;
        });
        const places = { all: x, fitted: x, products: out };
        await session.run(
          plan,
          Object.fromEntries(Object.entries(places).map(([name, tensor]) => [name, { tensor, element: 0 }])),
          options.signal,
        );
        const products = out.read(0, rows * fitted) as Float32Array;
        for (const [i, product] of products.entries()) sums[i] = (sums[i] ?? 0) + product;
      } finally {
        x.dispose();
        out.dispose();
      }
    }
    return sums;
  } finally {
    session.dispose();
  }
}
