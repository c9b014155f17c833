import { join } from 'node:path';
import type { NativeTensor } from '../bindings.js';
import { checkPhoto, type DecodeOptions, type Photo } from '../data/photo.js';
import { PhotoLoader, type PlacedPhoto } from '../data/photo_loader.js';
import { PhiloxStream } from '../data/philox.js';
import { drawVisible, visiblePatches } from '../data/visible_patches.js';
import { ArgumentError } from '../errors.js';
import type { Session } from '../graph/session.js';
import { matchWeights, openCheckpoint } from '../io/checkpoint.js';
import { readJson } from '../io/config.js';
import { defaultImageProcessor, type ImageProcessorConfig } from '../io/image_processor.js';
import { checkMtdConfig, mtdConfigToJson, parseMtdConfig, type MtdConfig } from '../io/mtd_config.js';
import { describe } from '../kinds.js';
import { checkFolder, checkOptions } from '../options.js';
import { checkFinite, type Tensor } from './clip_vision_encoder.js';
import { initialiseMtd } from './initialise.js';
import { mtdGraph, mtdWeights, patchesPerTarget } from './masked_transformer_decoder.js';
import {
  loadWeights,
  Model,
  newSession,
  type ComputeDType,
  type ComputeOptions,
  type LoadOptions,
} from './model.js';
import { maskedError, pictureOf, rgbBytes } from './patches.js';
import { placePhoto } from './place_photo.js';
import { saveModel, type SaveOptions } from './save.js';
import { checkMasks, checkTokens, checkVisible } from './target_checks.js';
import { runsOf, type TargetRun } from './target_runs.js';

export interface CreateMtdOptions extends ComputeOptions {
  /** Seed of the new weights: a whole number from 0 to 2^53 − 1. Default: 0. */
  seed?: number | undefined;
  /** Stops between weights; the call rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** What of the targets the decoder sees, and which of their pixels count. */
export interface TargetOptions extends DecodeOptions {
  /** Patches that stay visible, for each target: numbers of its patches, row by row; as many for all targets. Default: drawn. */
  visible?: readonly Int32Array[] | undefined;
  /** Share of a target's patches that is not visible, where these are drawn: above 0 and below 1. Default: that of training. */
  maskRatio?: number | undefined;
  /** Seed of the draw: a whole number from 0 to 2^53 − 1. Default: 0. */
  seed?: number | undefined;
  /** For each target the pixels that its loss counts, [size, size]: not 0 inside of the face. Without one, all count. */
  masks?: readonly (Uint8Array | undefined)[] | undefined;
  /** Stops between operators; the call rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Called after every batch of targets. What it throws rejects the call. */
  onProgress?:
    ((progress: { readonly targetsDone: number; readonly targetsTotal: number }) => void) | undefined;
}

export interface ReconstructOptions extends TargetOptions {
  /** `'f32'` (default): [targets, 3, size, size], normalised as the targets are. `'rgb'`: 8 bits, [targets, size, size, 3]. */
  format?: 'f32' | 'rgb' | undefined;
}

/** How well targets were rebuilt. */
export interface TargetLosses {
  /**
   * For each target the mean of |prediction − target| over the normalised pixels that count (equation 4 of the paper); NaN where its mask is
   * empty.
   */
  readonly losses: Float64Array;
  /** For each target the patches that were visible. */
  readonly visible: readonly Int32Array[];
}

/** Rebuilt targets. */
export interface Reconstruction<T extends Float32Array | Uint8Array> extends TargetLosses {
  readonly prediction: T;
  readonly shape: readonly [number, number, number, number];
}

/** Patches of the targets of one run: enough for the products to run at full speed, little enough to stay small. */
const patchesPerRun = 2080;

/** What one target gave. */
type OnTarget = (target: number, patches: Float32Array, pixels: Float32Array) => void;

/** A call whose arguments have been checked. */
interface Job {
  readonly tokens: Float32Array;
  /** L */
  readonly length: number;
  readonly photos: readonly PlacedPhoto[];
  readonly runs: readonly TargetRun[];
  readonly visible: readonly Int32Array[];
  readonly masks: readonly (Uint8Array | undefined)[];
}

/**
 * The masked transformer decoder, D(ℓ, x̃): from identity tokens and the few visible patches of a photo to the whole photo (paper, section 3.3).
 *
 * Peak memory: the packed weights (bf16: 15 MB beside a `nano` encoder), and activations and pixels of one batch of about 2,000 patches.
 */
export class MaskedTransformerDecoder extends Model {
  readonly #processor: ImageProcessorConfig;

  private constructor(
    session: Session,
    dtype: ComputeDType,
    readonly config: MtdConfig,
  ) {
    super(session, dtype);
    this.#processor = {
      ...defaultImageProcessor(config.imageSize),
      mean: config.imageMean,
      std: config.imageStd,
    };
  }

  /**
   * Loads a decoder saved by {@link save} or by training, which puts it into the folder `mtd` of its encoder.
   * @throws {FileError} `ERR_FILE`, {ConfigError} `ERR_CONFIG`, {FormatError} `ERR_FORMAT`, {WeightsError} `ERR_WEIGHTS` listing every name
   *   that does not fit, {DeviceError} `ERR_DEVICE_UNAVAILABLE` or `ERR_OUT_OF_MEMORY`, {ArgumentError} `ERR_INVALID_ARGUMENT`
   */
  static async load(folder: string, options: LoadOptions = {}): Promise<MaskedTransformerDecoder> {
    checkFolder(folder);
    checkOptions('load', options);
    const { dtype = 'bf16' } = options;
    const session = newSession(options);
    try {
      const path = join(folder, 'config.json');
      const config = parseMtdConfig(await readJson(path), path);
      const model = new MaskedTransformerDecoder(session, dtype, config);
      const source = matchWeights(await openCheckpoint(folder), mtdWeights(config), folder);
      await loadWeights(session, folder, source, config, options, () => model.#pack());
      return model;
    } catch (error) {
      session.dispose();
      throw error;
    }
  }

  /**
   * A new, untrained decoder.
   * @throws {ConfigError} `ERR_CONFIG`; {ArgumentError} `ERR_INVALID_ARGUMENT`; {DeviceError} `ERR_DEVICE_UNAVAILABLE` or `ERR_OUT_OF_MEMORY`
   */
  static async create(config: MtdConfig, options: CreateMtdOptions = {}): Promise<MaskedTransformerDecoder> {
    checkOptions('createMtd', options);
    const { seed = 0, dtype = 'bf16', signal } = options;
    const checked = checkMtdConfig(config);
    const session = newSession(options);
    try {
      const model = new MaskedTransformerDecoder(session, dtype, checked);
      await model.enqueue(signal, (both) => initialiseMtd(session, checked, mtdWeights(checked), seed, both));
      await model.#pack();
      signal?.throwIfAborted();
      return model;
    } catch (error) {
      session.dispose();
      throw error;
    }
  }

  /** Patches of a target. */
  get patches(): number {
    return patchesPerTarget(this.config);
  }

  /**
   * Rebuilds photos of people from their identity tokens and a few visible patches. Calls on one decoder queue.
   *
   * @param tokens ℓ, as `OmniIdEncoder.embed` gives it: [identities, L, C]
   * @param targets for each identity the photos to rebuild, which are scaled to the decoder's image size, and the middle is cropped. Results
   *   have all targets in one row, in the order of the identities.
   * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`; {ImageError} for the first photo that cannot be used; {NumericError} `ERR_NOT_FINITE`; the
   *   signal's reason when aborted; {DisposedError} `ERR_DISPOSED`
   */
  reconstruct(
    tokens: Tensor,
    targets: readonly (readonly Photo[])[],
    options?: ReconstructOptions & { format?: 'f32' | undefined },
  ): Promise<Reconstruction<Float32Array>>;
  reconstruct(
    tokens: Tensor,
    targets: readonly (readonly Photo[])[],
    options: ReconstructOptions & { format: 'rgb' },
  ): Promise<Reconstruction<Uint8Array>>;
  async reconstruct(
    tokens: Tensor,
    targets: readonly (readonly Photo[])[],
    options: ReconstructOptions = {},
  ): Promise<Reconstruction<Float32Array | Uint8Array>> {
    checkOptions('reconstruct', options);
    const { imageSize, imageMean, imageStd } = this.config;
    const job = this.#job(tokens, targets, options);
    const count = job.photos.length;
    const values = 3 * imageSize * imageSize;
    const rgb = options.format === 'rgb';
    const prediction = rgb ? new Uint8Array(count * values) : new Float32Array(count * values);
    const losses = await this.#run(job, options, (target, patches) => {
      const picture = pictureOf(patches, this.config);
      prediction.set(rgb ? rgbBytes(picture, imageMean, imageStd) : picture, target * values);
    });
    const shape = rgb
      ? ([count, imageSize, imageSize, 3] as const)
      : ([count, 3, imageSize, imageSize] as const);
    return { prediction, shape, losses, visible: job.visible };
  }

  /**
   * How well {@link reconstruct} rebuilds, without keeping the pictures.
   * @throws what {@link reconstruct} throws
   */
  async losses(
    tokens: Tensor,
    targets: readonly (readonly Photo[])[],
    options: TargetOptions = {},
  ): Promise<TargetLosses> {
    checkOptions('losses', options);
    const job = this.#job(tokens, targets, options);
    return { losses: await this.#run(job, options), visible: job.visible };
  }

  /**
   * Photos as the decoder's targets are: scaled, cropped and normalised, f32 [3, size, size] each.
   * @throws what {@link reconstruct} throws
   */
  async prepare(
    photos: readonly Photo[],
    options: DecodeOptions & { signal?: AbortSignal | undefined } = {},
  ): Promise<Float32Array[]> {
    checkOptions('prepare', options);
    const placed = this.#placed([photos], false);
    return this.enqueue(options.signal, async (signal) => {
      const { imageSize } = this.config;
      const loader = new PhotoLoader(placed, options);
      const pixels = this.session.tensor({ dtype: 'f32', shape: [3, imageSize, imageSize] });
      const prepared: Float32Array[] = [];
      try {
        for (const photo of placed) {
          await placePhoto(this.session, this.#processor, photo, await loader.next(), pixels, 0, signal);
          prepared.push(pixels.read(0, 3 * imageSize * imageSize) as Float32Array);
        }
        return prepared;
      } finally {
        await loader.stop();
        pixels.dispose();
      }
    });
  }

  /**
   * Saves the decoder as a folder with `config.json` and `model.safetensors`, which is made when its parent exists.
   * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`; {FileError} `ERR_FILE`; the signal's reason when aborted; {DisposedError} `ERR_DISPOSED`
   */
  async save(folder: string, options: SaveOptions = {}): Promise<void> {
    checkFolder(folder);
    checkOptions('save', options);
    await this.enqueue(options.signal, (signal) =>
      saveModel(folder, this.session.weights, mtdWeights(this.config), mtdConfigToJson(this.config), {
        ...options,
        signal,
      }),
    );
  }

  /** Brings all weights into the kernels' layout, so that the first call does not wait for it. */
  async #pack(): Promise<void> {
    await this.session.plan('mtd 1 1 1 1', () => mtdGraph(this.config, this.dtype, 1, 1, 1, 1));
  }

  #placed(targets: unknown, grouped: boolean): PlacedPhoto[] {
    const placed: PlacedPhoto[] = [];
    for (const [identity, photos] of (targets as readonly unknown[]).entries()) {
      if (!Array.isArray(photos)) {
        throw new ArgumentError(
          `${grouped ? `the targets of identity ${identity} are` : 'photos is'} ${describe(photos)}, expected an array of photos`,
        );
      }
      for (const [photo, source] of (photos as readonly Photo[]).entries()) {
        const position = grouped ? { identity, photo } : { photo };
        checkPhoto(source, position, this.config.imageSize);
        placed.push({ ...position, source });
      }
    }
    return placed;
  }

  #job(tokens: Tensor, targets: readonly (readonly Photo[])[], options: TargetOptions): Job {
    const { tokenWidth, maskRatio: trained, imageSize } = this.config;
    if (!Array.isArray(targets)) {
      throw new ArgumentError(
        `targets is ${describe(targets)}, expected an array with an array of photos for each identity`,
      );
    }
    const length = checkTokens(tokens, targets.length, tokenWidth);
    const photos = this.#placed(targets, true);
    const counts = targets.map((list: readonly Photo[]) => list.length);
    const { patches } = this;
    const { visible, masks, maskRatio = trained, seed = 0 } = options;
    const kept = visiblePatches(patches, maskRatio);
    if (visible) checkVisible(visible, photos.length, patches);
    if (masks) checkMasks(masks, photos.length, imageSize);
    return {
      tokens: tokens.data,
      length,
      photos,
      runs: [...runsOf(counts, Math.max(1, Math.floor(patchesPerRun / patches)))],
      visible: visible
        ? visible.map((one) => Int32Array.from(one))
        : photos.map(({ identity = 0, photo }) =>
            drawVisible(
              new PhiloxStream(seed, 'visible', { step: 0, slot: identity, item: photo }),
              patches,
              kept,
            ),
          ),
      masks: masks ? [...masks] : [],
    };
  }

  #run(job: Job, options: TargetOptions, onTarget?: OnTarget): Promise<Float64Array> {
    return this.enqueue(options.signal, async (signal) => {
      const losses = new Float64Array(job.photos.length);
      const loader = new PhotoLoader(job.photos, options);
      try {
        for (const run of job.runs) {
          await this.#forward(job, run, loader, signal, (target, patches, pixels) => {
            checkFinite(patches, `the pixels of target ${target}`);
            losses[target] = maskedError(patches, pixels, job.masks[target], this.config);
            onTarget?.(target, patches, pixels);
          });
          const targetsDone = run.firstTarget + run.identities * run.targets;
          options.onProgress?.({ targetsDone, targetsTotal: job.photos.length });
        }
        return losses;
      } finally {
        await loader.stop();
      }
    });
  }

  async #forward(
    job: Job,
    run: TargetRun,
    loader: PhotoLoader,
    signal: AbortSignal,
    onTarget: OnTarget,
  ): Promise<void> {
    const { session, config } = this;
    const { imageSize, tokenWidth } = config;
    const { length } = job;
    const count = run.identities * run.targets;
    const values = 3 * imageSize * imageSize;
    const kept = job.visible[run.firstTarget]?.length ?? 1;
    const tensors: NativeTensor[] = [];
    const tensor = (dtype: 'f32' | 'i32', shape: number[]): NativeTensor => {
      const made = session.tensor({ dtype, shape });
      tensors.push(made);
      return made;
    };
    try {
      const tokens = tensor('f32', [run.identities * length, tokenWidth]);
      const pixels = tensor('f32', [count, 3, imageSize, imageSize]);
      const visible = tensor('i32', [count * kept]);
      const prediction = tensor('f32', [count * this.patches, 3 * config.patchSize ** 2]);
      const row = length * tokenWidth;
      tokens.write(
        job.tokens.subarray(run.firstIdentity * row, (run.firstIdentity + run.identities) * row),
        0,
      );
      for (let i = 0; i < count; i++) {
        const photo = job.photos[run.firstTarget + i];
        const patches = job.visible[run.firstTarget + i];
        if (!photo || !patches) throw new Error('a run has more targets than its call');
        visible.write(patches, i * kept);
        await placePhoto(session, this.#processor, photo, await loader.next(), pixels, i * values, signal);
      }
      const plan = await session.plan(`mtd ${run.identities} ${run.targets} ${length} ${kept}`, () =>
        mtdGraph(config, this.dtype, run.identities, run.targets, length, kept),
      );
      const places = { tokens, targets: pixels, visible, prediction };
      await session.run(
        plan,
        Object.fromEntries(Object.entries(places).map(([name, at]) => [name, { tensor: at, element: 0 }])),
        signal,
      );
      for (let i = 0; i < count; i++) {
        onTarget(
          run.firstTarget + i,
          prediction.read(i * values, values) as Float32Array,
          pixels.read(i * values, values) as Float32Array,
        );
      }
    } finally {
      for (const made of tensors) made.dispose();
    }
  }
}
