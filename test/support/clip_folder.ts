// Folders of CLIP vision towers with random weights, as Hugging Face has them.
import { clipVisionConfigToJson, type ClipVisionConfig } from '../../src/io/config.js';
import { clipVisionWeights } from '../../src/models/clip_vision.js';
import { NormalNumbers } from './normal.js';
import { writeModel } from './trained_pair.js';

/** Writes a tower. @returns its weights by name: `vision_model.…` */
export async function writeClip(
  folder: string,
  vision: ClipVisionConfig,
  seed = 1,
): Promise<Map<string, Float32Array>> {
  const numbers = new NormalNumbers(seed);
  const weights = new Map(
    [...clipVisionWeights(vision)].map(([name, { shape }]) => {
      const count = shape.reduce((product, n) => product * n, 1);
      return [name, { shape, data: Float32Array.from(numbers.array(count), (x) => 0.1 * x) }];
    }),
  );
  await writeModel(folder, clipVisionConfigToJson(vision), weights);
  return new Map([...weights].map(([name, { data }]) => [name, data]));
}
