import { native, type NativeTensor } from '../bindings.js';
import {
  decodePhoto,
  type DecodeOptions,
  type Photo,
  type PhotoPosition,
  type RawImage,
} from '../data/photo.js';
import { ImageError } from '../errors.js';
import type { Graph } from '../graph/graph.js';
import type { Session } from '../graph/session.js';
import type { ClipVisionConfig, ImageProcessorConfig } from '../io/config.js';
import { clipVisionGraph, tokensPerImage, type ClipVisionFeature } from './clip_vision.js';

/** A photo and where it stood in the call. */
export interface PlacedPhoto extends PhotoPosition {
  readonly source: Photo;
}

/** Tokens that one run of the vision tower works on: enough for the products to run at full speed, little enough to stay small. */
const tokensPerRun = 2080;
/** Photos that are decoded ahead of the engine: bounds the memory of decoded photos. */
const decodeAhead = 8;

type Loaded = { image: RawImage } | { pixels: Float32Array } | { error: unknown };

async function load(photo: PlacedPhoto, options: DecodeOptions): Promise<Loaded> {
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
 * Photos to CLIP features: decoding (on libuv's threads) runs ahead of preprocessing and the vision tower (on the engine's), in batches of one
 * size, so that no thread waits while there is work.
 */
export class VisionPipeline {
  readonly tokens: number;
  readonly batch: number;

  constructor(
    private readonly session: Session,
    private readonly config: ClipVisionConfig,
    private readonly processor: ImageProcessorConfig,
    private readonly dtype: 'f32' | 'bf16',
  ) {
    this.tokens = tokensPerImage(config);
    this.batch = Math.max(1, Math.min(64, Math.round(tokensPerRun / this.tokens)));
  }

  graph(images: number, feature: ClipVisionFeature): Graph {
    return clipVisionGraph(this.config, this.dtype, images, feature);
  }

  /** Rows of the feature that one image gives. */
  rows(feature: ClipVisionFeature): number {
    return feature === 'pooled' ? 1 : this.tokens;
  }

  /**
   * Computes the features of all photos, in order, into `out` (f32, rows(feature) × width for each photo).
   * @param options.onPhotoError given a photo that cannot be used, which is then left out; without it the first one ends the run
   * @returns the photos that were used, in the order of their features
   */
  async run(
    photos: readonly PlacedPhoto[],
    feature: ClipVisionFeature,
    out: NativeTensor,
    options: DecodeOptions & {
      signal?: AbortSignal | undefined;
      onDone?: ((photos: number) => void) | undefined;
      onPhotoError?: ((error: ImageError) => void) | undefined;
    },
  ): Promise<PlacedPhoto[]> {
    const { imageSize } = this.config;
    const imageElements = 3 * imageSize * imageSize;
    const width = this.config.hiddenSize;
    const rows = this.rows(feature);
    // Two, so that the next batch is preprocessed while the engine works on this one.
    const size = Math.min(this.batch, photos.length);
    const pixels = [0, 1].map(() =>
      this.session.tensor({ dtype: 'f32', shape: [size, 3, imageSize, imageSize] }),
    ) as [NativeTensor, NativeTensor];
    const inFlight: [Promise<void>, Promise<void>] = [Promise.resolve(), Promise.resolve()];
    const used: PlacedPhoto[] = [];
    const ahead: Promise<Loaded>[] = [];
    let next = 0;
    const refill = (): void => {
      for (; ahead.length < decodeAhead && next < photos.length; next++) {
        const photo = photos[next];
        if (photo) ahead.push(load(photo, options));
      }
    };
    let pending: Promise<void>[] = [];
    let side: 0 | 1 = 0;
    let filled = 0;
    const flush = (): void => {
      if (filled === 0) return;
      const [images, first, from, prepared] = [filled, used.length - filled, side, pending];
      inFlight[from] = Promise.all(prepared).then(() =>
        this.#forward(images, feature, pixels[from], { tensor: out, element: first * rows * width }, options),
      );
      // Failures are met where the promise is awaited; this keeps one that nobody awaits yet from ending the process.
      inFlight[from].catch(() => undefined);
      [side, filled, pending] = [from === 0 ? 1 : 0, 0, []];
    };
    try {
      for (const photo of photos) {
        refill();
        options.signal?.throwIfAborted();
        const loaded = await (ahead.shift() ?? load(photo, options));
        options.signal?.throwIfAborted();
        if (filled === 0) await inFlight[side];
        try {
          if ('error' in loaded) throw loaded.error;
          pending.push(this.#place(photo, loaded, pixels[side], filled * imageElements, options.signal));
        } catch (error) {
          if (!(error instanceof ImageError) || !options.onPhotoError) throw error;
          options.onPhotoError(error);
          continue;
        }
        used.push(photo);
        if (++filled === size) flush();
      }
      flush();
      await Promise.all(inFlight);
      return used;
    } finally {
      // Whatever happened, nothing may still be writing to the tensors when they go.
      await Promise.allSettled([...ahead, ...pending, ...inFlight]);
      for (const tensor of pixels) tensor.dispose();
    }
  }

  #place(
    photo: PlacedPhoto,
    loaded: Exclude<Loaded, { error: unknown }>,
    tensor: NativeTensor,
    element: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    if ('pixels' in loaded) {
      const bad = tensor.write(loaded.pixels, element);
      if (bad < 0) return Promise.resolve();
      const { identity } = photo;
      throw new ImageError(
        'ERR_PIXELS_INVALID',
        `photo ${photo.photo}${identity === undefined ? '' : ` of identity ${identity}`}: pixel value ${bad} is ` +
          `${loaded.pixels[bad]}, expected a finite number`,
        photo,
      );
    }
    const { shortestEdge, cropSize, rescaleFactor, mean, std } = this.processor;
    const settings = { resize: shortestEdge, crop: cropSize, rescale: rescaleFactor, mean, std };
    const placed = this.session.cancellable(signal, (cancellation) =>
      native().preprocess(this.session.device, loaded.image, settings, tensor, element, cancellation),
    );
    placed.catch(() => undefined);
    return placed;
  }

  async #forward(
    images: number,
    feature: ClipVisionFeature,
    pixels: NativeTensor,
    features: { tensor: NativeTensor; element: number },
    options: { signal?: AbortSignal | undefined; onDone?: ((photos: number) => void) | undefined },
  ): Promise<void> {
    const plan = await this.session.plan(`vision ${images} ${feature}`, () => this.graph(images, feature));
    const places: Record<string, { tensor: NativeTensor; element: number }> = {
      pixels: { tensor: pixels, element: 0 },
      features,
    };
    const indices: NativeTensor[] = [];
    const index = (name: string, values: Int32Array): void => {
      const tensor = this.session.tensor({ dtype: 'i32', shape: [values.length] });
      tensor.write(values, 0);
      indices.push(tensor);
      places[name] = { tensor, element: 0 };
    };
    if (feature === 'pooled') {
      index(
        'class_rows',
        Int32Array.from({ length: images }, (_, i) => i * this.tokens),
      );
      index(
        'image_offsets',
        Int32Array.from({ length: images + 1 }, (_, i) => i),
      );
    }
    await this.session.run(plan, places, options.signal).finally(() => {
      for (const tensor of indices) tensor.dispose();
    });
    options.onDone?.(images);
  }
}
