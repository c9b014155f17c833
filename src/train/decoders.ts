import type { Value } from '../graph/graph.js';
import { maskedL1 } from '../graph/operators.js';
import {
  maskedTransformerDecoder,
  patchesPerTarget,
  type MaskedTransformerDecoderConfig,
} from '../models/masked_transformer_decoder.js';
import type { Scope } from '../nn/scope.js';

/** What a decoder rebuilds: the targets of a step, R for each identity, in the identities' order. */
export interface TargetShape {
  readonly identities: number;
  readonly targets: number;
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
   * @param w scope of its weights
   * @param tokens ℓ, f32 [identities · L, C]
   * @returns the loss, f32 [1], and the prediction where there is one to show
   */
  build(w: Scope, tokens: Value, shape: TargetShape): { loss: Value; prediction?: Value };
}

/** The masked transformer decoder as a decoder of the trainer, with the loss of equation 4. */
export class MaskedDecoder implements Decoder {
  readonly name = 'mtd';

  /** @param visible patches of a target that are not masked */
  constructor(
    readonly config: MaskedTransformerDecoderConfig,
    readonly visible: number,
    readonly weight = 1,
  ) {}

  get patches(): number {
    return patchesPerTarget(this.config);
  }

  /**
   * Inputs: `mtd.targets` f32 [targets, 3, size, size], `mtd.visible` i32 [targets · visible], `mtd.mask` f32 [targets, 1, size, size], and
   * `mtd.normalizer` f32 [1], the mask's sum over the whole step, three times: once for each channel.
   */
  build(
    w: Scope,
    tokens: Value,
    { identities, targets: count }: TargetShape,
  ): { loss: Value; prediction: Value } {
    const { imageSize, patchSize } = this.config;
    const { graph } = w;
    const targets = graph.input('mtd.targets', 'f32', [count, 3, imageSize, imageSize]);
    const visible = graph.input('mtd.visible', 'i32', [count * this.visible]);
    const mask = graph.input('mtd.mask', 'f32', [count, 1, imageSize, imageSize]);
    const normalizer = graph.input('mtd.normalizer', 'f32', [1]);
    const prediction = maskedTransformerDecoder(w, this.config, tokens, targets, visible, identities);
    return { loss: maskedL1(prediction, targets, mask, normalizer, patchSize), prediction };
  }
}
