import type { NativeTensor } from '../bindings.js';
import type { Value } from '../graph/graph.js';
import { maskedL1 } from '../graph/operators.js';
import type { Session } from '../graph/session.js';
import type { OmniIdEncoderConfig } from '../io/config.js';
import type { ImageProcessorConfig } from '../io/image_processor.js';
import { mtdConfigToJson } from '../io/mtd_config.js';
import { initialiseMtd } from '../models/initialise.js';
import {
  maskedTransformerDecoder,
  patchesPerTarget,
  type MaskedTransformerDecoderConfig,
} from '../models/masked_transformer_decoder.js';
import { pictureOf } from '../models/patches.js';
import type { Scope } from '../nn/scope.js';
import type { Batch } from './batch_loader.js';
import type { StepData } from './engine.js';
import { maskedPicture, type Picture } from './grid.js';
import { writePhotos } from './photo_tensors.js';

/** What a decoder rebuilds: the targets of a step, R for each identity, in the identities' order. */
export interface TargetShape {
  readonly identities: number;
  readonly targets: number;
}

/** A decoder's inputs on the device, for the targets of one step. */
export interface DecoderTensors {
  /** @param size side of the batch's photos, in pixels */
  fill(batch: Batch, size: number): Promise<void>;
  /** The inputs of one of as many equal parts of the step, by the names of the graph's inputs. */
  part(index: number, parts: number): StepData;
  dispose(): void;
}

/** One of a target's pictures in a grid, in the row of this label. */
export interface TargetPicture {
  readonly label: string;
  readonly picture: Picture;
}

/** What a run leaves of a decoder: a folder of its name with a configuration and these of its weights. */
export interface ExportedDecoder {
  readonly config: Record<string, unknown>;
  /** Without the decoder's own name before them. */
  readonly weights: readonly string[];
}

/**
 * One of the K decoders that an encoder is trained by (paper, section 3.3): it gets ℓ and corrupted targets, and gives a loss.
 * Its inputs are named with its own name before them, so that several stand side by side in one graph.
 */
export interface Decoder {
  /** Prefix of its weights and inputs: `mtd`. */
  readonly name: string;
  /** What its loss counts in the sum. */
  readonly weight: number;
  /**
   * Gives new weights their first values, in the session's store.
   * @param expected their names, without the decoder's own, and shapes
   */
  initialise(
    session: Session,
    expected: ReadonlyMap<string, { readonly shape: readonly number[] }>,
    seed: number,
    signal: AbortSignal,
  ): Promise<void>;
  /**
   * @param w scope of its weights
   * @param tokens ℓ, f32 [identities · L, C]
   * @returns the loss, f32 [1], and the prediction where there is one to show
   */
  build(w: Scope, tokens: Value, shape: TargetShape): { loss: Value; prediction?: Value };
  /** Memory for the inputs of a step with as many targets. @param processor what pixels are normalised by */
  tensors(session: Session, targets: number, processor: ImageProcessorConfig): DecoderTensors;
  /** Floats of its prediction of as many targets; 0 when it has none to show. */
  predictionSize(targets: number): number;
  /**
   * How a target is shown beside itself, the same labels for each: what the decoder saw of it, and what it made of it.
   * @param photo the batch's own
   * @param prediction of all of the batch's targets
   */
  pictures(
    batch: Batch,
    target: number,
    photo: Picture,
    prediction: Float32Array,
    processor: ImageProcessorConfig,
  ): TargetPicture[];
  /** @param encoder whose ℓ it was trained with; @param weights names of all of its own */
  exported(encoder: OmniIdEncoderConfig, weights: readonly string[]): ExportedDecoder;
}

export interface MaskedDecoderOptions {
  readonly config: MaskedTransformerDecoderConfig;
  /** Patches of a target that are not masked. */
  readonly visible: number;
  /** The share of patches that are masked, as it was asked for. Default: what `visible` leaves. */
  readonly maskRatio?: number;
  /** Default: 1. */
  readonly weight?: number;
  /** Default: `mtd`. */
  readonly name?: string;
  /** The patches that stay visible, [targets · visible]. Default: the batch's. */
  readonly visibleOf?: (batch: Batch) => Int32Array;
}

/** The masked transformer decoder as a decoder of the trainer, with the loss of equation 4. */
export class MaskedDecoder implements Decoder {
  readonly name: string;
  readonly weight: number;
  readonly config: MaskedTransformerDecoderConfig;
  readonly visible: number;
  readonly maskRatio: number;
  readonly visibleOf: (batch: Batch) => Int32Array;

  constructor({ config, visible, maskRatio, weight = 1, name = 'mtd', visibleOf }: MaskedDecoderOptions) {
    this.config = config;
    this.visible = visible;
    this.maskRatio = maskRatio ?? 1 - visible / patchesPerTarget(config);
    this.weight = weight;
    this.name = name;
    this.visibleOf = visibleOf ?? ((batch) => batch.visible);
  }

  initialise(
    session: Session,
    expected: ReadonlyMap<string, { readonly shape: readonly number[] }>,
    seed: number,
    signal: AbortSignal,
  ): Promise<void> {
    return initialiseMtd(session, this.config, expected, seed, signal);
  }

  /**
   * Inputs, after the decoder's name: `targets` f32 [targets, 3, size, size], `visible` i32 [targets · visible], `mask` f32 [targets, 1, size,
   * size], and `normalizer` f32 [1], the mask's sum over the whole step, three times: once for each channel.
   */
  build(
    w: Scope,
    tokens: Value,
    { identities, targets: count }: TargetShape,
  ): { loss: Value; prediction: Value } {
    const { imageSize, patchSize } = this.config;
    const { graph } = w;
    const input = (name: string): string => `${this.name}.${name}`;
    const targets = graph.input(input('targets'), 'f32', [count, 3, imageSize, imageSize]);
    const visible = graph.input(input('visible'), 'i32', [count * this.visible]);
    const mask = graph.input(input('mask'), 'f32', [count, 1, imageSize, imageSize]);
    const normalizer = graph.input(input('normalizer'), 'f32', [1]);
    const prediction = maskedTransformerDecoder(w, this.config, tokens, targets, visible, identities);
    return { loss: maskedL1(prediction, targets, mask, normalizer, patchSize), prediction };
  }

  tensors(session: Session, targets: number, processor: ImageProcessorConfig): DecoderTensors {
    return new MaskedDecoderTensors(this, session, targets, processor);
  }

  predictionSize(targets: number): number {
    return targets * 3 * this.config.imageSize ** 2;
  }

  pictures(
    batch: Batch,
    target: number,
    photo: Picture,
    prediction: Float32Array,
    processor: ImageProcessorConfig,
  ): TargetPicture[] {
    const { imageSize, patchSize } = this.config;
    const visible = this.visibleOf(batch).subarray(target * this.visible, (target + 1) * this.visible);
    const [first, end] = [this.predictionSize(target), this.predictionSize(target + 1)];
    const rebuilt = {
      data: pictureOf(prediction.subarray(first, end), { imageSize, patchSize }),
      width: imageSize,
      height: imageSize,
      normalisation: processor,
    };
    return [
      { label: 'visible', picture: maskedPicture(photo, visible, imageSize / patchSize) },
      { label: 'rebuilt', picture: rebuilt },
    ];
  }

  exported(encoder: OmniIdEncoderConfig, weights: readonly string[]): ExportedDecoder {
    const { mean: imageMean, std: imageStd } = encoder.imageProcessor;
    const { maskRatio } = this;
    const config = mtdConfigToJson({
      ...this.config,
      maskRatio,
      tokenWidth: encoder.width,
      imageMean,
      imageStd,
    });
    return { config, weights };
  }
}

class MaskedDecoderTensors implements DecoderTensors {
  readonly #targets: NativeTensor;
  readonly #masks: NativeTensor;
  readonly #visible: NativeTensor;
  readonly #normalizer: NativeTensor;

  constructor(
    private readonly decoder: MaskedDecoder,
    private readonly session: Session,
    private readonly count: number,
    private readonly processor: ImageProcessorConfig,
  ) {
    const { imageSize } = decoder.config;
    this.#targets = session.tensor({ dtype: 'f32', shape: [count, 3, imageSize, imageSize] });
    this.#masks = session.tensor({ dtype: 'f32', shape: [count, 1, imageSize, imageSize] });
    this.#visible = session.tensor({ dtype: 'i32', shape: [count * decoder.visible] });
    this.#normalizer = session.tensor({ dtype: 'f32', shape: [1] });
  }

  async fill(batch: Batch, size: number): Promise<void> {
    const { imageSize } = this.decoder.config;
    const to = { tensor: this.#targets, size: imageSize };
    const written = writePhotos(this.session, batch.targets, size, to, this.processor);
    const masks = resizedMasks(batch.masks, size, imageSize);
    this.#masks.write(masks, 0);
    this.#visible.write(this.decoder.visibleOf(batch), 0);
    let inside = 0;
    for (const mask of masks) inside += mask;
    // Of no face at all there is nothing to rebuild: the loss is 0.
    this.#normalizer.write(Float32Array.of(3 * Math.max(1, inside)), 0);
    await written;
  }

  part(index: number, parts: number): StepData {
    const { name, visible } = this.decoder;
    const { imageSize } = this.decoder.config;
    const first = (index * this.count) / parts;
    return {
      [`${name}.targets`]: { tensor: this.#targets, element: first * 3 * imageSize ** 2 },
      [`${name}.visible`]: { tensor: this.#visible, element: first * visible },
      [`${name}.mask`]: { tensor: this.#masks, element: first * imageSize ** 2 },
      [`${name}.normalizer`]: { tensor: this.#normalizer, element: 0 },
    };
  }

  dispose(): void {
    for (const tensor of [this.#targets, this.#masks, this.#visible, this.#normalizer]) tensor.dispose();
  }
}

/** Masks of one side to another: the nearest pixel. */
function resizedMasks(masks: Uint8Array, from: number, to: number): Float32Array {
  if (from === to) return Float32Array.from(masks);
  const count = masks.length / (from * from);
  const out = new Float32Array(count * to * to);
  const nearest = Int32Array.from({ length: to }, (_, i) => Math.floor(((i + 0.5) * from) / to));
  let at = 0;
  for (let mask = 0; mask < count; mask++) {
    for (const y of nearest) for (const x of nearest) out[at++] = masks[(mask * from + y) * from + x] ?? 0;
  }
  return out;
}
