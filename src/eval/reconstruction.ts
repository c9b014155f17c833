import { PhiloxStream } from '../data/philox.js';
import type { RawImage } from '../data/photo.js';
import { drawVisible, visiblePatches } from '../data/visible_patches.js';
import type { MaskedTransformerDecoder } from '../models/mtd.js';
import type { HeldOutPerson } from './held_out.js';
import type { PeoplesTokens } from './peoples_tokens.js';
import { estimateByPerson, type Estimate } from './statistics.js';

/** How well targets are rebuilt with one choice of ℓ. */
export interface ConditionReport {
  /** The loss of equation 4: mean |prediction − target| of normalised pixels inside of the face. */
  readonly loss: Estimate;
  /** The same less that with the right ℓ, target by target: above 0 where the right one is better. */
  readonly aboveRight: Estimate;
  /** Share of the targets whose loss is lower with the right ℓ. */
  readonly rightWins: number;
}

/** Losses of the same targets, with the same visible patches, for any ℓ. */
export class PairedTargets {
  readonly #targets: readonly (readonly RawImage[])[];
  readonly #masks: readonly (Uint8Array | undefined)[];
  readonly #people: Int32Array;
  readonly #visible: readonly Int32Array[];

  /** @param masking share of patches that are masked, and seed of which these are */
  constructor(
    private readonly decoder: MaskedTransformerDecoder,
    private readonly people: readonly HeldOutPerson[],
    { maskRatio, seed }: { maskRatio: number; seed: number },
  ) {
    const { imageSize: size } = decoder.config;
    this.#targets = people.map(({ targets }) =>
      targets.map(({ pixels }) => ({ data: pixels, width: size, height: size, channels: 3 })),
    );
    this.#masks = people.flatMap(({ targets }) => targets.map(({ mask }) => mask));
    this.#people = Int32Array.from(people.flatMap(({ targets }, i) => targets.map(() => i)));
    const kept = visiblePatches(decoder.patches, maskRatio);
    this.#visible = people.flatMap(({ targets, slot }) =>
      targets.map((_, item) =>
        drawVisible(new PhiloxStream(seed, 'visible', { step: 0, slot, item }), decoder.patches, kept),
      ),
    );
  }

  get count(): number {
    return this.#people.length;
  }

  /** Targets with a face mask; of others every pixel counts. */
  get masked(): number {
    return this.#masks.filter((mask) => mask !== undefined).length;
  }

  /** Patches of a target that are visible. */
  get visiblePatches(): number {
    return this.#visible[0]?.length ?? 0;
  }

  /** For each target its loss; NaN where its face mask is empty. */
  async losses(
    tokens: PeoplesTokens,
    options: { signal?: AbortSignal | undefined; onTargets?: (done: number) => void } = {},
  ): Promise<Float64Array> {
    let before = 0;
    const { losses } = await this.decoder.losses(tokens, this.#targets, {
      visible: this.#visible,
      masks: this.#masks,
      signal: options.signal,
      onProgress: ({ targetsDone }) => {
        options.onTargets?.(targetsDone - before);
        before = targetsDone;
      },
    });
    return losses;
  }

  /** @param right losses with the right person's ℓ */
  report(losses: Float64Array, right: Float64Array): ConditionReport {
    const above = losses.map((loss, i) => loss - (right[i] ?? NaN));
    const counted = above.filter((difference) => !Number.isNaN(difference));
    return {
      loss: this.mean(losses),
      aboveRight: this.mean(above),
      rightWins: counted.filter((difference) => difference > 0).length / counted.length,
    };
  }

  mean(losses: Float64Array): Estimate {
    return estimateByPerson(losses, this.#people, this.people.length);
  }
}
