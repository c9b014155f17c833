import { crc32 } from 'node:zlib';

/**
 * The golden cases' procedural tensors: value i of a tensor is a hash of i and the name, mapped to offset ± scale (test/golden/README.md).
 */
export function procedural(name: string, elements: number, offset: number, scale: number): Float32Array {
  const seed = crc32(name);
  const values = new Float32Array(elements);
  for (let i = 0; i < elements; i++) {
    let h = (Math.imul(i, 0x9e3779b1) + seed) | 0;
    h ^= h >>> 16;
    h = Math.imul(h, 0x85ebca6b);
    h ^= h >>> 13;
    h = Math.imul(h, 0xc2b2ae35);
    h ^= h >>> 16;
    values[i] = offset + scale * ((h >>> 0) / 2147483648 - 1);
  }
  return values;
}

/** A weight, with offset and scale by its name and shape. */
export function proceduralWeight(name: string, shape: readonly number[]): Float32Array {
  const elements = shape.reduce((product, n) => product * n, 1);
  if (shape.length > 1) {
    const scale =
      name.includes('embedding') && !name.includes('patch')
        ? 0.05
        : Math.sqrt((3 * (shape[0] ?? 1)) / elements);
    return procedural(name, elements, 0, scale);
  }
  const norm = /norm|layrnorm/.test(name) && name.endsWith('weight');
  return norm ? procedural(name, elements, 1, 0.1) : procedural(name, elements, 0, 0.02);
}
