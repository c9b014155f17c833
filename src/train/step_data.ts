import type { NativeTensor } from '../bindings.js';
import type { Place, Session } from '../graph/session.js';
import type { OmniIdEncoderConfig } from '../io/config.js';
import { tokensPerImage } from '../models/clip_vision.js';
import type { Batch } from './batch_loader.js';
import type { Decoder, DecoderTensors } from './decoders.js';
import type { StepData } from './engine.js';
import { writePhotos } from './photo_tensors.js';
import type { StepShape } from './step_graph.js';

/** A part of a step that runs at once. */
export interface MicroBatch {
  readonly shape: StepShape;
  readonly data: StepData;
}

/** How much a step holds at most. */
export interface StepSizes {
  readonly identities: number;
  /** Photos of an identity that ℓ is made from, at most. */
  readonly inputs: number;
  /** Photos of an identity that are rebuilt. */
  readonly targets: number;
}

/**
 * The tensors that a step's photos are brought into. A trainer has two, so that the next step's are filled while the engine works on this one's.
 * Memory: 12 bytes a pixel of input and target, and 4 of a mask.
 */
export class StepTensors {
  readonly #pixels: NativeTensor;
  readonly #decoders: readonly DecoderTensors[];
  readonly #indices = new Map<string, NativeTensor>();

  constructor(
    private readonly session: Session,
    private readonly encoder: OmniIdEncoderConfig,
    decoders: readonly Decoder[],
    private readonly sizes: StepSizes,
  ) {
    const { imageSize } = encoder.vision;
    const { identities, inputs, targets } = sizes;
    this.#pixels = session.tensor({ dtype: 'f32', shape: [identities * inputs, 3, imageSize, imageSize] });
    this.#decoders = decoders.map((decoder) =>
      decoder.tensors(session, identities * targets, encoder.imageProcessor),
    );
  }

  /**
   * Brings a batch to the device, split into parts of as many identities each.
   * @param size side of the batch's photos, in pixels
   */
  async fill(batch: Batch, size: number, parts: number): Promise<MicroBatch[]> {
    const { vision, imageProcessor, tokens } = this.encoder;
    const { inputs } = batch.sample;
    if (inputs > this.sizes.inputs)
      throw new Error(`${inputs} inputs, at most ${this.sizes.inputs} were announced`);
    const to = { tensor: this.#pixels, size: vision.imageSize };
    // All of them end before this does: nothing may still be written to tensors that are disposed of after an error.
    const written = await Promise.allSettled([
      writePhotos(this.session, batch.inputs, size, to, imageProcessor),
      ...this.#decoders.map((decoder) => decoder.fill(batch, size)),
    ]);
    for (const one of written) if (one.status === 'rejected') throw one.reason;
    const identities = this.sizes.identities / parts;
    const perIdentity = inputs * tokensPerImage(vision);
    return Array.from({ length: parts }, (_, part): MicroBatch => {
      const element = part * identities * inputs * 3 * vision.imageSize ** 2;
      return {
        shape: { identities, photos: identities * inputs, targets: identities * this.sizes.targets },
        data: {
          pixels: { tensor: this.#pixels, element },
          photo_starts: this.#multiples(identities, perIdentity),
          photo_offsets: this.#multiples(identities + 1, perIdentity),
          query_starts: this.#multiples(identities, 0),
          query_offsets: this.#multiples(identities + 1, tokens),
          ...Object.fromEntries(
            this.#decoders.flatMap((decoder) => Object.entries(decoder.part(part, parts))),
          ),
        },
      };
    });
  }

  dispose(): void {
    this.#pixels.dispose();
    for (const decoder of this.#decoders) decoder.dispose();
    for (const tensor of this.#indices.values()) tensor.dispose();
  }

  /** 0, step, 2 · step, … */
  #multiples(length: number, step: number): Place {
    const key = `${length} ${step}`;
    let tensor = this.#indices.get(key);
    if (!tensor) {
      tensor = this.session.tensor({ dtype: 'i32', shape: [length] });
      tensor.write(
        Int32Array.from({ length }, (_, i) => i * step),
        0,
      );
      this.#indices.set(key, tensor);
    }
    return { tensor, element: 0 };
  }
}
