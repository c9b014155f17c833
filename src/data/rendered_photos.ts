import sharp from 'sharp';
import { native } from '../bindings.js';
import type { RenderedPhoto } from './rendered.js';
import type { RenderedDataset } from './rendered_dataset.js';

/** How rendered photos are written. JPEG and WebP in high quality; masks are PNG always. */
export type RenderedEncoding = 'png' | 'jpg' | 'webp';

/** A rendered photo as it is written to disk. */
export interface EncodedRender {
  readonly identity: string;
  readonly image: { readonly extension: string; readonly bytes: Uint8Array };
  readonly mask: { readonly extension: string; readonly bytes: Uint8Array };
  /** Seed and view, pose, landmarks and coefficients, as JSON holds them. */
  readonly labels: Readonly<Record<string, unknown>>;
}

async function encode(
  { pixels, mask, size }: RenderedPhoto,
  encoding: RenderedEncoding,
): Promise<[image: Uint8Array, mask: Uint8Array]> {
  const photo = sharp(pixels, { raw: { width: size, height: size, channels: 3 } });
  const image = {
    png: () => photo.png(),
    // Chroma at full size: at 112 pixels lips and irises are a few pixels wide.
    jpg: () => photo.jpeg({ quality: 95, chromaSubsampling: '4:4:4' }),
    webp: () => photo.webp({ quality: 95 }),
  }[encoding]();
  const grey = sharp(mask, { raw: { width: size, height: size, channels: 1 } }).toColourspace('b-w');
  return Promise.all([image.toBuffer(), grey.png().toBuffer()]);
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
  const [image, mask] = await encode(rendered, encoding);
  const { yaw, pitch, roll } = rendered.pose;
  const [y, p, r] = decimals(Float32Array.of(yaw, pitch, roll));
  return {
    identity: dataset.identityName(identity),
    image: { extension: encoding, bytes: image },
    mask: { extension: 'png', bytes: mask },
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
  const ahead = 2 * native().availableParallelism() + 2;
  const waiting: Promise<EncodedRender>[] = [];
  try {
    for (let identity = 0; identity < dataset.identities; identity++) {
      if (skip?.has(dataset.identityName(identity)) === true) continue;
      for (let photo = 0; photo < dataset.photos(identity); photo++) {
        signal?.throwIfAborted();
        const next = encoded(dataset, identity, photo, size, encoding);
        next.catch(() => undefined); // told when its turn comes
        waiting.push(next);
        const first = waiting.length >= ahead ? waiting.shift() : undefined;
        if (first) yield await first;
      }
    }
    while (waiting.length > 0) {
      signal?.throwIfAborted();
      const first = waiting.shift();
      if (first) yield await first;
    }
  } finally {
    await Promise.allSettled(waiting);
  }
}
