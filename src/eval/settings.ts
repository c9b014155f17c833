import type { IdentityDataset } from '../data/dataset.js';
import { heldOutSeed, mostPeople, mostViews } from '../data/rendered.js';
import type { ViewOptions } from '../data/view_options.js';
import type { HeldOutRecord } from '../io/held_out_record.js';
import { check, maskRatio as anyMaskRatio, seed as anySeed, whole, type Kind } from '../kinds.js';
import type { ComputeOptions } from '../models/model.js';
import { defined } from '../options.js';
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

/**
 * How many of everything an evaluation has, and what it is drawn by.
 * @param called what messages call an option by
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`
 */
export function countsOf(
  options: Omit<EvaluateOptions, 'data'>,
  called: (option: string) => string = (option) => option,
) {
  const count = (option: string, value: number, range: Kind<number>): void => {
    check(called(option), value, range);
  };
  const { identities = 64, views = 16, seed = 0, untrainedSeed = 0 } = options;
  count('identities', identities, whole(2, mostPeople, 'people are listed in memory'));
  count('views', views, whole(2, mostViews, 'the views of a person are listed in memory'));
  const { targets = views > 8 ? views - 8 : Math.floor(views / 2) } = options;
  count('targets', targets, whole(1, views - 1, 'one photo is left as an input'));
  const { inputs = Math.min(3, views - targets) } = options;
  count('inputs', inputs, whole(1, views - targets, 'what the targets leave'));
  count('seed', seed, anySeed);
  count('untrainedSeed', untrainedSeed, anySeed);
  const { trainPeople = 1500, testPeople = 300, photos = 3 } = options.probe === false ? {} : (options.probe ?? {}); // prettier-ignore
  count('probe.trainPeople', trainPeople, whole(10));
  count('probe.testPeople', testPeople, whole(2));
  count('probe.photos', photos, whole(1));
  return {
    identities,
    views,
    targets,
    inputs,
    seed,
    untrainedSeed,
    probe: { trainPeople, testPeople, photos },
  };
}

/** @throws {ArgumentError} `ERR_INVALID_ARGUMENT` */
export function settingsOf(
  options: EvaluateOptions,
  trained: { readonly maskRatio: number; readonly heldOut: HeldOutRecord | undefined },
) {
  const counts = countsOf(options);
  const { maskRatio = trained.maskRatio } = options;
  check('maskRatio', maskRatio, anyMaskRatio);
  const { data = { kind: 'rendered' } } = options;
  const firstSeed = data.kind === 'rendered' ? (data.firstSeed ?? heldOutSeed) : 0;
  const trainedView = trained.heldOut?.kind === 'rendered' ? trained.heldOut.view : {};
  const view: ViewOptions = {
    ...trainedView,
    ...(data.kind === 'rendered' && data.view ? defined(data.view) : {}),
  };
  const given = options.probe === false ? {} : (options.probe ?? {});
  const probe = {
    ...counts.probe,
    firstSeed: given.firstSeed ?? firstSeed + Math.max(counts.identities, probeSeedDistance),
    view: { ...view, ...defined(given.view ?? {}) },
  };
  check('probe.firstSeed', probe.firstSeed, anySeed);
  return {
    ...counts, data, firstSeed, view, maskRatio,
    probe: options.probe === false || data.kind !== 'rendered' ? undefined : probe,
  }; // prettier-ignore
}
