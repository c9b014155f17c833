import { decodePhoto, type DecodeOptions, type Photo, type PhotoPosition, type RawImage } from './photo.js';

/** A photo and where it stood in the call. */
export interface PlacedPhoto extends PhotoPosition {
  readonly source: Photo;
}

/** A photo's pixels, decoded or preprocessed, or why there are none. */
export type LoadedPhoto = { image: RawImage } | { pixels: Float32Array } | { error: unknown };

/**
 * Photos that are decoded or being decoded ahead of their use. Twice libuv's threads, so that none of them waits while one photo is slow; more would
 * only hold more memory.
 */
const decodeAhead = 8;

async function load(photo: PlacedPhoto, options: DecodeOptions): Promise<LoadedPhoto> {
  const { source } = photo;
  if (source instanceof Float32Array) return { pixels: source };
  if (typeof source === 'string' || source instanceof URL || source instanceof Uint8Array) {
    return decodePhoto(source, photo, options).then(
      (image) => ({ image }),
      (error: unknown) => ({ error }),
    );
  }
  // The engine reads the pixels from its own threads while JavaScript goes on: what the caller owns is copied.
  return { image: { ...source, data: source.data.slice() } };
}

/**
 * Decodes the photos of a call in order, on libuv's threads, a few ahead of whoever asks for them. Peak memory: `decodeAhead` decoded photos.
 */
export class PhotoLoader {
  readonly #ahead: Promise<LoadedPhoto>[] = [];
  #next = 0;

  constructor(
    private readonly photos: readonly PlacedPhoto[],
    private readonly options: DecodeOptions,
  ) {}

  /** The next photo, which must be there. */
  async next(): Promise<LoadedPhoto> {
    this.#refill();
    const first = this.#ahead.shift();
    if (!first) throw new Error('all photos have been loaded');
    const loaded = await first;
    // Also while the caller is busy with this one.
    this.#refill();
    return loaded;
  }

  /** Resolves when nothing is being decoded any more. */
  async idle(): Promise<void> {
    await Promise.all(this.#ahead);
  }

  #refill(): void {
    for (; this.#ahead.length < decodeAhead; this.#next++) {
      const photo = this.photos[this.#next];
      if (!photo) return;
      this.#ahead.push(load(photo, this.options));
    }
  }
}
