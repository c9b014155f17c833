import type { IdentityDataset } from '../data/dataset.js';
import { heldOutSeed } from '../data/rendered.js';
import type { ViewOptions } from '../data/view_options.js';
import { ArgumentError } from '../errors.js';
import type { HeldOutRecord } from '../io/held_out_record.js';
import type { ComputeOptions } from '../models/model.js';
import { defined, describe, isMaskRatio } from '../options.js';
import { checkCount } from './held_out.js';
import type { ProbeOptions } from './identity_probe.js';

/** Whose photos are rebuilt. */
export type EvaluationData =
  /** Rendered people from a seed on, which training has not seen. What of their views is chosen instead of drawn is `view`, by default as in training. */
  | {
      readonly kind: 'rendered';
      readonly firstSeed?: number | undefined;
      readonly view?: ViewOptions | undefined;
    }
  /** People of a data set: those that training says it has held out, or else the last ones. */
  | { readonly kind: 'stored'; readonly dataset: IdentityDataset };

export interface EvaluateOptions extends Pick<ComputeOptions, 'device' | 'threads'> {
  /** Default: rendered people from `heldOutSeed` on. */
  readonly data?: EvaluationData | undefined;
  /** Default: 64; of a data set with fewer, all. */
  readonly identities?: number | undefined;
  /** Photos of each person, inputs and targets together. Default: 16. */
  readonly views?: number | undefined;
  /** Photos of each that are rebuilt. Default: what 8 inputs leave; with up to 8 photos, half of them. */
  readonly targets?: number | undefined;
  /** Photos that ℓ is made from. Default: 3, as in training, or as many as there are. */
  readonly inputs?: number | undefined;
  /** Default: that of training. */
  readonly maskRatio?: number | undefined;
  /** Of masks and of which photos are inputs. Default: 0. */
  readonly seed?: number | undefined;
  /** The linear probe, of rendered people only; false for none. Default: 1,500 people and 300 to test it, with 3 photos each. */
  readonly probe?: false | { readonly [K in keyof ProbeOptions]?: ProbeOptions[K] | undefined } | undefined;
  /** Seed of the untrained encoder beside it. Default: 0. */
  readonly untrainedSeed?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Told, before the work begins, of every reason to think that people were trained on. */
  readonly onCaution?: ((caution: string) => void) | undefined;
  /** Called with what is going on, and how much of it is done. */
  readonly onProgress?:
    | ((progress: { readonly stage: string; readonly done: number; readonly total: number }) => void)
    | undefined;
}

/** Seeds between people that are rebuilt and those of the probe. */
const probeSeedDistance = 10_000;

/** @throws {ArgumentError} `ERR_INVALID_ARGUMENT` */
export function settingsOf(
  options: EvaluateOptions,
  trained: { readonly maskRatio: number; readonly heldOut: HeldOutRecord | undefined },
) {
  const { identities = 64, views = 16, maskRatio = trained.maskRatio, seed = 0, untrainedSeed = 0 } = options;
  checkCount('identities', identities, 2);
  checkCount('views', views, 2);
  const { targets = views > 8 ? views - 8 : Math.floor(views / 2) } = options;
  checkCount('targets', targets, 1, views - 1);
  const { inputs = Math.min(3, views - targets) } = options;
  checkCount('inputs', inputs, 1, views - targets);
  checkCount('seed', seed, 0);
  checkCount('untrainedSeed', untrainedSeed, 0);
  if (!isMaskRatio(maskRatio))
    throw new ArgumentError(`maskRatio is ${describe(maskRatio)}, expected a number above 0 and below 1`);
  const { data = { kind: 'rendered' } } = options;
  const firstSeed = data.kind === 'rendered' ? (data.firstSeed ?? heldOutSeed) : 0;
  const trainedView = trained.heldOut?.kind === 'rendered' ? trained.heldOut.view : {};
  const view: ViewOptions = {
    ...trainedView,
    ...(data.kind === 'rendered' && data.view ? defined(data.view) : {}),
  };
  const given = options.probe === false ? {} : (options.probe ?? {});
  const probe = {
    firstSeed: given.firstSeed ?? firstSeed + Math.max(identities, probeSeedDistance),
    trainPeople: given.trainPeople ?? 1500,
    testPeople: given.testPeople ?? 300,
    photos: given.photos ?? 3,
    view: { ...view, ...defined(given.view ?? {}) },
  };
  checkCount('probe.trainPeople', probe.trainPeople, 10);
  checkCount('probe.testPeople', probe.testPeople, 2);
  checkCount('probe.photos', probe.photos, 1);
  checkCount('probe.firstSeed', probe.firstSeed, 0);
  return {
    data, firstSeed, view, identities, views, targets, inputs, maskRatio, seed, untrainedSeed,
    probe: options.probe === false || data.kind !== 'rendered' ? undefined : probe,
  }; // prettier-ignore
}
