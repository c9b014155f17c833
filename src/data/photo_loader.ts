import { decodePhoto, type DecodeOptions, type Photo, type PhotoPosition, type RawImage } from './photo.js';

/** A photo and where it stood in the call. */
export interface PlacedPhoto extends PhotoPosition {
  readonly source: Photo;
}

/**
 * A photo's pixels, decoded or preprocessed, or why there are none. `owned` pixels belong to nobody else.
 */
export type LoadedPhoto = { image: RawImage; owned: boolean } | { pixels: Float32Array } | { error: unknown };

/** Photos that are decoded or being decoded ahead of their use: bounds the memory of decoded photos. */
const decodeAhead = 8;

/**
 * Photos that are being decoded at once: sharp works on libuv's threads (4, or UV_THREADPOOL_SIZE), one of which is left to the file reads of
 * everybody else. What is not a number libuv takes for 1.
 */
const decodeAtOnce = Math.max(1, (Number.parseInt(process.env['UV_THREADPOOL_SIZE'] ?? '4', 10) || 1) - 1);

async function load({ source, ...position }: PlacedPhoto, options: DecodeOptions): Promise<LoadedPhoto> {
  if (source instanceof Float32Array) return { pixels: source };
  if (typeof source !== 'string' && !(source instanceof URL) && !(source instanceof Uint8Array))
    return { image: source, owned: false };
  try {
    return { image: await decodePhoto(source, position, options), owned: true };
  } catch (error) {
    return { error };
  }
}

/**
 * Decodes the photos of a call in order, on libuv's threads, a few ahead of whoever asks for them. Peak memory: `decodeAhead` decoded photos, and
 * the one that was given out last.
 */
export class PhotoLoader {
  readonly #ahead: Promise<LoadedPhoto>[] = [];
  #next = 0;
  #decoding = 0;
  #stopped = false;

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
    this.#refill(); // also while the caller is busy with this one
    return loaded;
  }

  /** Begins no more, and resolves when nothing is being decoded. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#ahead);
  }

  #refill(): void {
    while (!this.#stopped && this.#ahead.length < decodeAhead && this.#decoding < decodeAtOnce) {
      const photo = this.photos[this.#next++];
      if (!photo) return;
      this.#decoding++;
      this.#ahead.push(
        load(photo, this.options).finally(() => {
          this.#decoding--;
          this.#refill();
        }),
      );
    }
  }
}
