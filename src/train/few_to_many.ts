import { PhiloxStream } from '../data/philox.js';
import { drawVisible, visiblePatches } from '../data/visible_patches.js';
import { ArgumentError } from '../errors.js';
import { check, describe, flag, kind, maskRatio, number, seed, whole, type Kind } from '../kinds.js';

/** What few-to-many training draws (section 3.2 of the paper). */
export interface FewToManyOptions {
  /** A whole number from 0 to 2^53 − 1. */
  readonly seed: number;
  readonly identitiesPerStep: number;
  /** S, photos that the encoder sees of an identity; a range [least, most] is drawn from anew for each step. */
  readonly inputs: number | readonly [least: number, most: number];
  /** R, photos that are rebuilt of an identity. */
  readonly targets: number;
  /** Default: true. */
  readonly targetsMayIncludeInputs?: boolean | undefined;
  /** How often a photo is mirrored. Default: 0.5. */
  readonly flipProbability?: number | undefined;
  /** Share of a target's patches that the decoder does not see, above 0 and below 1. */
  readonly maskRatio: number;
  /** Patches of a target. */
  readonly patches: number;
}

/** Photos of a data set. */
export interface PhotoCounts {
  readonly identities: number;
  photos(identity: number): number;
}

/** What is drawn of one identity. */
export interface IdentitySample {
  readonly identity: number;
  /** S photos of it. */
  readonly inputs: readonly number[];
  readonly inputFlips: readonly boolean[];
  /** R photos of it. */
  readonly targets: readonly number[];
  readonly targetFlips: readonly boolean[];
  /** R rows of K patches that stay visible, in ascending order. */
  readonly visible: readonly Int32Array[];
}

export interface StepSample {
  readonly step: number;
  /** S of this step. */
  readonly inputs: number;
  readonly identities: readonly IdentitySample[];
}

/**
 * The patches of an identity's targets that stay visible: R rows of K, in ascending order.
 * @param place.slot the identity's place in the step
 * @param draw which of several independent draws, for decoders that are trained side by side
 */
export function visibleOfTargets(
  { seed, targets, patches, maskRatio }: Pick<FewToManyOptions, 'seed' | 'targets' | 'patches' | 'maskRatio'>,
  place: { readonly step: number; readonly slot: number },
  draw = 0,
): Int32Array[] {
  const visible = visiblePatches(patches, maskRatio);
  return Array.from({ length: targets }, (_, item) =>
    drawVisible(
      new PhiloxStream(seed, 'visible', { ...place, item: draw * targets + item }),
      patches,
      visible,
    ),
  );
}

/** A number of inputs, or the fewest and the most of them. */
function isInputs(value: unknown): boolean {
  if (!Array.isArray(value)) return whole(1).holds(value);
  const [fewest, most] = value as readonly unknown[];
  return value.length === 2 && whole(1).holds(fewest) && whole(fewest).holds(most);
}

/** Collects what is wrong with options, so that all of it is told at once. */
function problemsOf(options: FewToManyOptions): string[] {
  const problems: string[] = [];
  const test = (name: string, value: unknown, { expected, holds }: Kind<unknown>): void => {
    if (!holds(value)) problems.push(`${name} is ${describe(value)}, expected ${expected}`);
  };
  const { inputs, flipProbability = 0.5, targetsMayIncludeInputs = true } = options;
  test('seed', options.seed, seed);
  test('identitiesPerStep', options.identitiesPerStep, whole(1));
  test('inputs', inputs, kind(`${whole(1).expected}, or [fewest, most]`, isInputs));
  test('targets', options.targets, whole(1));
  test('maskRatio', options.maskRatio, maskRatio);
  test('patches', options.patches, whole(1));
  test('flipProbability', flipProbability, number({ from: 0, to: 1 }));
  test('targetsMayIncludeInputs', targetsMayIncludeInputs, flag);
  return problems;
}

/**
 * Draws the identities, photos, flips and masks of any training step. A step's sample follows from options, data set and the step's
 * number alone: it does not depend on the steps before, on threads, or on how a step is split, and training that goes on later goes on
 * with the same samples.
 *
 * Identities come in epochs, shuffled anew for each; in one epoch every identity comes once. A step that lies across two epochs may have
 * one twice, with photos drawn anew. Photos of an identity are drawn without replacement as far as there are enough of them; then all of
 * them once more.
 */
export class FewToManySampler {
  /** K, the patches of a target that stay visible. */
  readonly visiblePerTarget: number;
  /** Identities that have too few photos, so that some come several times in a step. */
  readonly shortOfPhotos: readonly number[];
  /** Different photos of an identity that a step has use for, at most. */
  readonly photosPerIdentity: number;
  readonly #options: FewToManyOptions;
  #epoch = -1;
  #order: Uint32Array = new Uint32Array(0);

  /** @throws {ArgumentError} `ERR_INVALID_ARGUMENT` naming every option that is wrong, with what was given and expected */
  constructor(
    private readonly dataset: PhotoCounts,
    options: FewToManyOptions,
  ) {
    const problems = problemsOf(options);
    if (dataset.identities < 1) problems.push('the data set has 0 identities, expected at least 1');
    if (problems.length > 0) throw new ArgumentError(`few-to-many sampling: ${problems.join('; ')}`);
    this.#options = { ...options };
    this.visiblePerTarget = visiblePatches(options.patches, options.maskRatio);

    const { inputs, targets, targetsMayIncludeInputs = true } = options;
    const most = typeof inputs === 'number' ? inputs : inputs[1];
    this.photosPerIdentity = targetsMayIncludeInputs ? Math.max(most, targets) : most + targets;
    const short: number[] = [];
    for (let i = 0; i < dataset.identities; i++)
      if (dataset.photos(i) < this.photosPerIdentity) short.push(i);
    this.shortOfPhotos = short;
  }

  /** What is drawn for a step. @param step a whole number from 0 to 2^32 − 1 */
  sample(step: number): StepSample {
    check('the step', step, whole(0, 2 ** 32 - 1));
    const { identitiesPerStep } = this.#options;
    const identities: IdentitySample[] = [];
    for (let slot = 0; slot < identitiesPerStep; slot++) {
      const identity = this.#identityAt(step * identitiesPerStep + slot);
      identities.push(this.#identitySample(step, slot, identity));
    }
    return { step, inputs: this.#inputsOf(step), identities };
  }

  /** What is drawn for a place in a step. */
  #identitySample(step: number, slot: number, identity: number): IdentitySample {
    const { seed, flipProbability = 0.5 } = this.#options;
    const place = { step, slot };
    const { inputs, targets } = this.#photos(step, slot, identity);

    const flips = new PhiloxStream(seed, 'flips', place);
    const flipped = (): boolean => flips.uniform() < flipProbability;
    const inputFlips = inputs.map(flipped);
    const targetFlips = targets.map(flipped);

    const visible = visibleOfTargets(this.#options, place);
    return { identity, inputs, inputFlips, targets, targetFlips, visible };
  }

  /** Photos in the order in which they are tried in place of one that cannot be read: `item` counts inputs, then targets. */
  replacementPhotos(step: number, slot: number, item: number, identity: number): Uint32Array {
    const photos = this.dataset.photos(identity);
    return new PhiloxStream(this.#options.seed, 'replacedPhoto', { step, slot, item }).choose(photos, photos);
  }

  #photos(step: number, slot: number, identity: number): { inputs: number[]; targets: number[] } {
    const { seed, targets: count, targetsMayIncludeInputs = true } = this.#options;
    const photos = this.dataset.photos(identity);
    const inputStream = new PhiloxStream(seed, 'inputs', { step, slot });
    const targetStream = new PhiloxStream(seed, 'targets', { step, slot });
    const inputCount = this.#inputsOf(step);
    if (targetsMayIncludeInputs || photos === 1) {
      return {
        inputs: inputStream.chooseAgain(photos, inputCount),
        targets: targetStream.chooseAgain(photos, count),
      };
    }
    // One photo at least is left to the targets.
    const different = Math.min(inputCount, photos - 1);
    const order = inputStream.choose(photos, photos);
    const pick = (from: Uint32Array, indices: readonly number[]): number[] =>
      indices.map((i) => from[i] ?? 0);
    const forInputs = order.subarray(0, different);
    const forTargets = order.subarray(different);
    return {
      inputs: pick(forInputs, inputStream.chooseAgain(different, inputCount)),
      targets: pick(forTargets, targetStream.chooseAgain(forTargets.length, count)),
    };
  }

  #inputsOf(step: number): number {
    const { seed, inputs } = this.#options;
    if (typeof inputs === 'number') return inputs;
    const [least, most] = inputs;
    return least + new PhiloxStream(seed, 'inputCount', { step }).below(most - least + 1);
  }

  /** The identity at a position of the endless row of epochs. */
  #identityAt(position: number): number {
    const { identities } = this.dataset;
    const epoch = Math.floor(position / identities);
    if (epoch !== this.#epoch) {
      this.#epoch = epoch;
      this.#order = new PhiloxStream(this.#options.seed, 'epoch', { step: epoch }).choose(
        identities,
        identities,
      );
    }
    return this.#order[position % identities] ?? 0;
  }
}
