import { native } from '../bindings.js';
import { ahead } from './ahead.js';
import { encodedMask, encodedPhoto, type EncodedSquare, type PhotoEncoding } from './encode_square.js';
import type { RenderedDataset } from './rendered_dataset.js';

/** How rendered photos are written; masks are PNG. */
export type RenderedEncoding = Exclude<PhotoEncoding, 'npy'>;

/** A rendered photo as it is written to disk. */
export interface EncodedRender {
  readonly identity: string;
  readonly image: EncodedSquare;
  readonly mask: EncodedSquare;
  /** Seed and view, pose, landmarks and coefficients, as JSON holds them. */
  readonly labels: Readonly<Record<string, unknown>>;
}

/** f32 as short decimals: four digits after the point are a ten-thousandth of a pixel. */
const decimals = (values: Float32Array): number[] => Array.from(values, (x) => Number(x.toFixed(4)));

async function encoded(
  dataset: RenderedDataset,
  identity: number,
  photo: number,
  size: number,
  encoding: RenderedEncoding,
): Promise<EncodedRender> {
  const rendered = await dataset.read(identity, photo, size);
  const [image, mask] = await Promise.all([
    encodedPhoto(rendered.pixels, size, encoding),
    encodedMask(rendered.mask, size, encoding),
  ]);
  const { yaw, pitch, roll } = rendered.pose;
  const [y, p, r] = decimals(Float32Array.of(yaw, pitch, roll));
  return {
    identity: dataset.identityName(identity),
    image,
    mask,
    labels: {
      seed: dataset.firstSeed + identity,
      view: dataset.firstView + photo,
      pose: { yaw: y, pitch: p, roll: r },
      landmarks: decimals(rendered.landmarks),
      identityCoefficients: decimals(rendered.identityCoefficients),
      expressionCoefficients: decimals(rendered.expressionCoefficients),
    },
  };
}

/**
 * All photos of a rendered data set, encoded, in order; a few are drawn ahead of whoever takes them.
 * @param options.skip people to leave out, by name
 */
export async function* renderedPhotos(
  dataset: RenderedDataset,
  size: number,
  options: {
    encoding?: RenderedEncoding | undefined;
    skip?: ReadonlySet<string> | undefined;
    signal?: AbortSignal | undefined;
  } = {},
): AsyncGenerator<EncodedRender, void, void> {
  const { encoding = 'png', skip, signal } = options;
  function* wanted(): Generator<[identity: number, photo: number], void, void> {
    for (let identity = 0; identity < dataset.identities; identity++) {
      if (skip?.has(dataset.identityName(identity)) === true) continue;
      for (let photo = 0; photo < dataset.photos(identity); photo++) yield [identity, photo];
    }
  }
  const depth = 2 * native().availableParallelism() + 2;
  const make = ([identity, photo]: [number, number]): Promise<EncodedRender> =>
    encoded(dataset, identity, photo, size, encoding);
  yield* ahead(wanted(), depth, make, signal);
}
