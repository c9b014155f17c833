import { join } from 'node:path';
import { native } from '../bindings.js';
import { checkPhoto, type DecodeOptions, type Photo } from '../data/photo.js';
import { PhotoLoader, type PlacedPhoto } from '../data/photo_loader.js';
import { ArgumentError, FileError, NumericError, type ImageError } from '../errors.js';
import type { Session } from '../graph/session.js';
import { describe } from '../kinds.js';
import { checkFolder, checkOptions } from '../options.js';
import { clipVisionNames, matchWeights, openCheckpoint } from '../io/checkpoint.js';
import { parseClipVisionConfig, readJson, type ClipVisionConfig } from '../io/config.js';
import { isFile } from '../io/files.js';
import {
  defaultImageProcessor,
  parseImageProcessor,
  parseOpenClipPreprocess,
  type ImageProcessorConfig,
} from '../io/image_processor.js';
import { clipVisionWeights, type ClipVisionFeature } from './clip_vision.js';
import { loadWeights, Model, newSession, type ComputeDType, type LoadOptions } from './model.js';
import { VisionPipeline } from './vision_pipeline.js';

/** A tensor as results carry it: row-major. */
export interface Tensor {
  readonly data: Float32Array;
  readonly shape: readonly number[];
}

/** Settings of a call that reads photos. */
export interface EmbedOptions extends DecodeOptions {
  /** Stops between operators; the call rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Called after every batch of photos, and for every photo that is left out. What it throws rejects the call. */
  onProgress?:
    ((progress: { readonly photosDone: number; readonly photosTotal: number }) => void) | undefined;
  /**
   * Given every photo that cannot be used, which is then left out; without it, the first one rejects the call. What it throws rejects
   * the call.
   */
  onPhotoError?: ((error: ImageError) => void) | undefined;
}

export interface ImageFeatures extends Tensor {
  /** Indices of the photos that were used: all of them, unless `onPhotoError` was given. */
  readonly photos: readonly number[];
}

/** Settings of a call for CLIP features. */
export interface FeatureOptions extends EmbedOptions {
  /** `last_hidden_state` (default) or `penultimate`: [photos, tokens, width]; `pooled`: [photos, width]. */
  feature?: ClipVisionFeature | undefined;
}

/**
 * Checks a call for CLIP features.
 * @returns a copy of the list, which may change while the call waits for its turn
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`; {ImageError} `ERR_PIXELS_INVALID`
 */
export function checkedPhotos(photos: unknown, imageSize: number, options: unknown): readonly Photo[] {
  checkOptions('embedImages', options);
  checkPhotos(photos, imageSize);
  return [...photos];
}

/** CLIP features of photos, for any model that has a vision pipeline. Memory: the features of all photos, twice. */
export async function embedImages(
  session: Session,
  pipeline: VisionPipeline,
  config: ClipVisionConfig,
  photos: readonly Photo[],
  options: FeatureOptions,
): Promise<ImageFeatures> {
  const { feature = 'last_hidden_state' } = options;
  const placed = photos.map((source, photo): PlacedPhoto => ({ source, photo }));
  const rows = pipeline.rows(feature);
  const loader = new PhotoLoader(placed, options);
  const out = session.tensor({ dtype: 'f32', shape: [placed.length * rows, config.hiddenSize] });
  try {
    let photosDone = 0;
    const used = await pipeline.run(placed, loader, feature, out, {
      ...options,
      onDone: (count) => {
        photosDone += count;
        options.onProgress?.({ photosDone, photosTotal: placed.length });
      },
    });
    const shape =
      feature === 'pooled' ? [used.length, config.hiddenSize] : [used.length, rows, config.hiddenSize];
    const data = out.read(0, used.length * rows * config.hiddenSize) as Float32Array;
    checkFinite(data, 'the features');
    return { data, shape, photos: used.map(({ photo }) => photo) };
  } finally {
    out.dispose();
    await loader.stop();
  }
}

/** @throws {NumericError} `ERR_NOT_FINITE` when a value is infinite or NaN */
export function checkFinite(values: Float32Array, what: string): void {
  if (native().firstNotFinite(values) >= 0) {
    throw new NumericError(
      `${what} are not finite: the weights are damaged, or the photos' pixel values are far outside of what images have`,
    );
  }
}

/**
 * Checks the photos of a call.
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`; {ImageError} `ERR_PIXELS_INVALID`
 */
export function checkPhotos(
  photos: unknown,
  imageSize: number,
  identity?: number,
): asserts photos is readonly Photo[] {
  if (!Array.isArray(photos)) {
    throw new ArgumentError(
      `${identity === undefined ? 'photos' : `identity ${identity}`} is ${describe(photos)}, expected an array of photos`,
    );
  }
  for (const [photo, source] of photos.entries()) checkPhoto(source, { identity, photo }, imageSize);
}

async function firstFile(folder: string, names: readonly string[]): Promise<string | undefined> {
  for (const name of names) {
    const path = join(folder, name);
    if (await isFile(path)) return path;
  }
  return undefined;
}

/**
 * The config and image processor of a CLIP folder (Hugging Face or OpenCLIP). Without settings for the processor, they are CLIP's own.
 * @throws {FileError} `ERR_FILE`, {ConfigError} `ERR_CONFIG`
 */
export async function readClipFolder(
  folder: string,
): Promise<{ vision: ClipVisionConfig; imageProcessor: ImageProcessorConfig }> {
  const configPath = await firstFile(folder, ['config.json', 'open_clip_config.json']);
  if (configPath === undefined)
    throw new FileError(`${folder} has neither config.json nor open_clip_config.json`);
  const json = await readJson(configPath);
  const vision = parseClipVisionConfig(json, configPath);
  const openClip = parseOpenClipPreprocess(json, vision.imageSize, configPath);
  if (openClip) return { vision, imageProcessor: openClip };
  const processorPath = await firstFile(folder, ['preprocessor_config.json']);
  const imageProcessor = processorPath
    ? parseImageProcessor(await readJson(processorPath), vision.imageSize, processorPath)
    : defaultImageProcessor(vision.imageSize);
  return { vision, imageProcessor };
}

/**
 * CLIP's vision tower by itself, from a Hugging Face folder (`CLIPVisionModel`, `CLIPVisionModelWithProjection`, `CLIPModel`) or an
 * OpenCLIP one.
 *
 * Peak memory: the packed weights (2 bytes a parameter in bf16, 4 in f32), about 100 MB of activations for ViT-H/14, and the features of all
 * photos of a call, twice.
 */
export class ClipVisionEncoder extends Model {
  readonly #pipeline: VisionPipeline;

  private constructor(
    session: Session,
    dtype: ComputeDType,
    readonly config: ClipVisionConfig,
    readonly imageProcessor: ImageProcessorConfig,
  ) {
    super(session, dtype);
    this.#pipeline = new VisionPipeline(session, config, imageProcessor, dtype);
  }

  /**
   * @param folder with `config.json` (or `open_clip_config.json`) and safetensors weights
   * @throws {FileError} `ERR_FILE`, {ConfigError} `ERR_CONFIG`, {FormatError} `ERR_FORMAT`, {WeightsError} `ERR_WEIGHTS` listing every name
   *   that does not fit, {DeviceError} `ERR_DEVICE_UNAVAILABLE` or `ERR_OUT_OF_MEMORY`, {ArgumentError} `ERR_INVALID_ARGUMENT`
   */
  static async load(folder: string, options: LoadOptions = {}): Promise<ClipVisionEncoder> {
    checkFolder(folder);
    checkOptions('load', options);
    const { dtype = 'bf16' } = options;
    const session = newSession(options);
    try {
      const { vision, imageProcessor } = await readClipFolder(folder);
      const model = new ClipVisionEncoder(session, dtype, vision, imageProcessor);
      const source = matchWeights(
        clipVisionNames(await openCheckpoint(folder)),
        clipVisionWeights(vision),
        folder,
      );
      await loadWeights(session, folder, source, vision, options, async () => {
        await session.plan('vision 1 pooled', () => model.#pipeline.graph(1, 'pooled'));
      });
      return model;
    } catch (error) {
      session.dispose();
      throw error;
    }
  }

  /**
   * CLIP features of photos.
   * @throws {ImageError} for a photo that cannot be used; {ArgumentError} `ERR_INVALID_ARGUMENT`; {NumericError} `ERR_NOT_FINITE`; the
   *   signal's reason when aborted; {DisposedError} `ERR_DISPOSED`
   */
  async embedImages(photos: readonly Photo[], options: FeatureOptions = {}): Promise<ImageFeatures> {
    const list = checkedPhotos(photos, this.config.imageSize, options);
    return this.enqueue(options.signal, (signal) =>
      embedImages(this.session, this.#pipeline, this.config, list, { ...options, signal }),
    );
  }
}
