import { ahead, range } from '../data/ahead.js';
import { normalised } from '../data/normalise.js';
import type { Tensor } from '../models/clip_vision_encoder.js';
import type { OmniIdEncoder } from '../models/omni_id_encoder.js';

/** ℓ of people, in one way or another: [people, L, C]. */
export type PeoplesTokens = Tensor;

/** People that are embedded in one call. */
const peoplePerCall = 16;

/**
 * ℓ of people from photos of the encoder's size, which are made ready while others are embedded.
 * @param photosOf RGB [size, size, 3] of person 0 to people − 1
 */
export async function peoplesTokens(
  encoder: OmniIdEncoder,
  people: number,
  photosOf: (person: number) => Promise<readonly Uint8Array[]>,
  options: { signal?: AbortSignal | undefined; onPeople?: (more: number) => void } = {},
): Promise<PeoplesTokens> {
  const { tokens, width, imageProcessor } = encoder.config;
  const all = new Float32Array(people * tokens * width);
  const batches = ahead(range(Math.ceil(people / peoplePerCall)), 2, (batch) => {
    const first = batch * peoplePerCall;
    const count = Math.min(peoplePerCall, people - first);
    return Promise.all(Array.from({ length: count }, (_, i) => photosOf(first + i)));
  });
  let done = 0;
  for await (const batch of batches) {
    const sets = batch.map((photos) => photos.map((pixels) => normalised(pixels, imageProcessor)));
    const { data } = await encoder.embed(sets, { signal: options.signal });
    all.set(data, done * tokens * width);
    done += batch.length;
    options.onPeople?.(batch.length);
  }
  return { data: all, shape: [people, tokens, width] };
}

/** ℓ of each person's neighbour in the list: another person for everybody, and everybody once. */
export function neighbours({ data, shape }: PeoplesTokens): PeoplesTokens {
  const each = data.length / (shape[0] ?? 1);
  const moved = new Float32Array(data.length);
  moved.set(data.subarray(each));
  moved.set(data.subarray(0, each), data.length - each);
  return { data: moved, shape };
}

/** The mean of all people's ℓ, for each of them. */
export function meanTokens({ data, shape }: PeoplesTokens): PeoplesTokens {
  const people = shape[0] ?? 1;
  const each = data.length / people;
  const mean = new Float64Array(each);
  for (const [i, value] of data.entries()) mean[i % each] = (mean[i % each] ?? 0) + value / people;
  return { data: Float32Array.from(data, (_, i) => mean[i % each] ?? NaN), shape };
}
