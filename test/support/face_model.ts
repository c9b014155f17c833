// The packed face model read without the engine, for tests that compute from its numbers what the renderer must say.
import { readFileSync } from 'node:fs';
import { faceModelPath } from '../../src/data/face_renderer.js';
import { readSafetensorsHeader } from '../../src/io/safetensors.js';

export type Point = [x: number, y: number, z: number];

/** Vertices of a person with an expression, where the landmarks lie, in the head's coordinates (cm). */
export async function landmarkPositions(
  identity: Float32Array,
  expression: Float32Array,
): Promise<readonly Point[]> {
  const { tensors } = await readSafetensorsHeader(faceModelPath);
  const file = readFileSync(faceModelPath);
  const slice = (name: string): ArrayBuffer => {
    const place = tensors.get(name);
    if (!place) throw new Error(`no tensor ${name}`);
    return file.buffer.slice(
      file.byteOffset + place.byteOffset,
      file.byteOffset + place.byteOffset + place.byteLength,
    );
  };
  const neutral = new Float32Array(slice('neutral'));
  const numbers = neutral.length;
  const scales = new Float32Array(slice('identity_scales'));
  const wide = new Int16Array(slice('identity_wide'));
  const narrow = new Int8Array(slice('identity_narrow'));
  const wideModes = wide.length / numbers;
  const starts = new Int32Array(slice('expression_starts'));
  const moved = new Uint16Array(slice('expression_vertices'));
  const movement = new Int16Array(slice('expression_movement'));
  const expressionScales = new Float32Array(slice('expression_scales'));
  return Array.from(new Int32Array(slice('landmarks68')), (vertex) => {
    const point: Point = [0, 0, 0];
    for (const axis of [0, 1, 2] as const) {
      const at = 3 * vertex + axis;
      let value = neutral[at] ?? NaN;
      for (const [mode, coefficient] of identity.entries()) {
        const by = mode < wideModes ? wide[mode * numbers + at] : narrow[(mode - wideModes) * numbers + at];
        value += coefficient * (scales[mode] ?? NaN) * (by ?? NaN);
      }
      for (const [e, weight] of expression.entries()) {
        for (let i = starts[e] ?? NaN; weight !== 0 && i < (starts[e + 1] ?? NaN); i++) {
          if (moved[i] === vertex)
            value += weight * (expressionScales[e] ?? NaN) * (movement[3 * i + axis] ?? NaN);
        }
      }
      point[axis] = value;
    }
    return point;
  });
}
