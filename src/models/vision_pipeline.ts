import type { NativeTensor } from '../bindings.js';
import type { PhotoLoader, PlacedPhoto } from '../data/photo_loader.js';
import { ImageError } from '../errors.js';
import type { Graph } from '../graph/graph.js';
import type { Session } from '../graph/session.js';
import type { ClipVisionConfig } from '../io/config.js';
import type { ImageProcessorConfig } from '../io/image_processor.js';
import { clipVisionGraph, tokensPerImage, type ClipVisionFeature } from './clip_vision.js';
import { placePhoto } from './place_photo.js';

/** Tokens that one run of the vision tower works on: enough for the products to run at full speed, little enough to stay small. */
const tokensPerRun = 2080;

/**
 * Photos to CLIP features, in batches of one size. Decoding (on libuv's threads), preprocessing (on the device's side queue) and the vision tower (on the
 * device's threads) go on side by side, so that no thread waits while there is work.
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
   * Computes the features of photos, in order, into `out` (f32, rows(feature) × width for each photo).
   * @param loader gives these photos next
   * @param options.onPhotoError given a photo that cannot be used, which is then left out; without it the first one ends the run
   * @returns the photos that were used, in the order of their features
   */
  async run(
    photos: readonly PlacedPhoto[],
    loader: PhotoLoader,
    feature: ClipVisionFeature,
    out: NativeTensor,
    options: {
      signal?: AbortSignal | undefined;
      onDone?: ((photos: number) => void) | undefined;
      onPhotoError?: ((error: ImageError) => void) | undefined;
    },
  ): Promise<PlacedPhoto[]> {
    const { imageSize } = this.config;
    const imageElements = 3 * imageSize * imageSize;
    const width = this.config.hiddenSize;
    const rows = this.rows(feature);
    // Two, so that the next batch is filled while the engine works on this one.
    const size = Math.min(this.batch, photos.length);
    const pixels = [0, 1].map(() =>
      this.session.tensor({ dtype: 'f32', shape: [size, 3, imageSize, imageSize] }),
    ) as [NativeTensor, NativeTensor];
    const inFlight: [Promise<void>, Promise<void>] = [Promise.resolve(), Promise.resolve()];
    const used: PlacedPhoto[] = [];
    let side: 0 | 1 = 0;
    let filled = 0;
    const flush = (): void => {
      if (filled === 0) return;
      const place = { tensor: out, element: (used.length - filled) * rows * width };
      const run = this.#forward(filled, feature, pixels[side], place, options);
      // Failures are met where the promise is awaited; this keeps one that nobody awaits yet from ending the process.
      run.catch(() => undefined);
      inFlight[side] = run;
      [side, filled] = [side === 0 ? 1 : 0, 0];
    };
    try {
      for (const photo of photos) {
        options.signal?.throwIfAborted();
        const loaded = await loader.next();
        options.signal?.throwIfAborted();
        if (filled === 0) await inFlight[side];
        try {
          // Awaited, so that besides what the loader holds there is one decoded photo.
          const { session, processor } = this;
          const element = filled * imageElements;
          await placePhoto(session, processor, photo, loaded, pixels[side], element, options.signal);
        } catch (error) {
          if (!(error instanceof ImageError) || !options.onPhotoError) throw error;
          options.onPhotoError(error);
          options.onDone?.(1);
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
      await Promise.allSettled(inFlight);
      for (const tensor of pixels) tensor.dispose();
    }
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
