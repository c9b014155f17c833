import { ahead, range } from '../data/ahead.js';
import { normalised } from '../data/normalise.js';
import type { ViewOptions } from '../data/view_options.js';
import { RenderedDataset } from '../data/rendered_dataset.js';
import type { ComputeOptions } from '../models/model.js';
import type { OmniIdEncoder } from '../models/omni_id_encoder.js';
import { linearProbe, type ProbeResult, type ProbeSet } from './ridge.js';

/** Rendered people whose shape is read from ℓ. */
export interface ProbeOptions {
  /** Seed of the first person. */
  readonly firstSeed: number;
  /** People that the probe is fitted to. */
  readonly trainPeople: number;
  /** People that it is tested on: those that follow. */
  readonly testPeople: number;
  /** Photos that a person's ℓ is made from. */
  readonly photos: number;
  /** What of their views is chosen instead of drawn. */
  readonly view?: ViewOptions | undefined;
}

/** What a linear map tells of a person's shape, see {@link linearProbe}. */
export interface EncoderProbe {
  /** From the mean of the tokens, [C]. */
  readonly pooled: ProbeResult;
  /** From all tokens behind each other; of more than 32,768 numbers, from the means of neighbouring tokens. */
  readonly tokens: ProbeResult;
}

/** Identity coefficients of the face model that are told: the first principal components, which move the surface most. */
export const probedCoefficients = 10;

/** Numbers of a person's features at most: 1,800 people's are 240 MB. */
export const widestFeatures = 32_768;

/** Photos that are embedded in one call, while the next ones are rendered. */
const photosPerCall = 48;

/**
 * Means of neighbouring tokens: `groups` of them, as even as can be.
 * @param tokens ℓ of one person, [length, width]
 */
export function groupedTokens(tokens: Float32Array, length: number, groups: number, out: Float32Array): void {
  const width = tokens.length / length;
  out.fill(0);
  for (let group = 0; group < groups; group++) {
    const [first, end] = [Math.ceil((group * length) / groups), Math.ceil(((group + 1) * length) / groups)];
    for (let token = first; token < end; token++) {
      for (let i = 0; i < width; i++) {
        const at = group * width + i;
        out[at] = (out[at] ?? NaN) + (tokens[token * width + i] ?? NaN) / (end - first);
      }
    }
  }
}

/** Features of all people by one encoder, in both forms. */
class Features {
  readonly #length: number;
  readonly #groups: number;
  readonly pooled: Float32Array;
  readonly tokens: Float32Array;

  constructor(
    readonly encoder: OmniIdEncoder,
    private readonly people: number,
  ) {
    const { tokens, width } = encoder.config;
    this.#length = tokens;
    this.#groups = Math.max(1, Math.min(tokens, Math.floor(widestFeatures / width)));
    this.pooled = new Float32Array(people * width);
    this.tokens = new Float32Array(people * width * this.#groups);
  }

  add(person: number, tokens: Float32Array): void {
    for (const [all, groups] of [
      [this.pooled, 1],
      [this.tokens, this.#groups],
    ] as const) {
      // prettier-ignore
      const each = all.length / this.people;
      groupedTokens(tokens, this.#length, groups, all.subarray(person * each, (person + 1) * each));
    }
  }
}

/**
 * How much of a person's shape a linear map tells from ℓ: R² of the face model's first ten identity coefficients on people that neither training nor the
 * probe has seen. Every encoder gets the same photos. Peak memory: the features of all people for each encoder.
 * @throws what `linearProbe` and `OmniIdEncoder.embed` throw
 */
export async function identityProbe(
  encoders: readonly OmniIdEncoder[],
  { firstSeed, trainPeople, testPeople, photos, view }: ProbeOptions,
  options: ComputeOptions & {
    signal?: AbortSignal | undefined;
    onPhotos?: (done: number) => void;
  } = {},
): Promise<EncoderProbe[]> {
  const { signal, device, threads } = options;
  const people = trainPeople + testPeople;
  const dataset = new RenderedDataset({ identities: people, views: photos, firstSeed, ...view });
  const labels = new Float32Array(people * probedCoefficients);
  const all = encoders.map((encoder) => new Features(encoder, people));
  const perCall = Math.max(1, Math.floor(photosPerCall / photos));

  const sizes = [...new Set(encoders.map(({ config }) => config.vision.imageSize))];
  const renderPerson = (person: number, size: number) =>
    Promise.all(Array.from({ length: photos }, (_, photo) => dataset.read(person, photo, size)));
  const batches = ahead(
    range(Math.ceil(people / perCall)),
    2,
    (batch) => {
      const count = Math.min(perCall, people - batch * perCall);
      return Promise.all(
        Array.from({ length: count }, async (_, i) => {
          const rendered = await Promise.all(sizes.map((size) => renderPerson(batch * perCall + i, size)));
          return new Map(sizes.map((size, at) => [size, rendered[at] ?? []]));
        }),
      );
    },
    signal,
  );
  let first = 0;
  for await (const batch of batches) {
    for (const features of all) {
      const { vision, imageProcessor } = features.encoder.config;
      const sets = batch.map((bySize) =>
        (bySize.get(vision.imageSize) ?? []).map(({ pixels }) => normalised(pixels, imageProcessor)),
      );
      const { data } = await features.encoder.embed(sets, { signal });
      const each = data.length / sets.length;
      for (let i = 0; i < sets.length; i++) features.add(first + i, data.subarray(i * each, (i + 1) * each));
    }
    for (const [i, bySize] of batch.entries()) {
      const [photo] = [...bySize.values()].flat();
      if (photo) labels.set(photo.identityCoefficients.subarray(0, probedCoefficients), (first + i) * probedCoefficients); // prettier-ignore
    }
    first += batch.length;
    options.onPhotos?.(batch.length * photos);
  }

  const set = (features: Float32Array, from: number, count: number): ProbeSet => {
    const part = (values: Float32Array): Float32Array =>
      values.subarray((from * values.length) / people, ((from + count) * values.length) / people);
    return { people: count, features: part(features), labels: part(labels) };
  };
  const probe = (features: Float32Array): Promise<ProbeResult> =>
    linearProbe(set(features, 0, trainPeople), set(features, trainPeople, testPeople), {
      device,
      threads,
      signal,
    });
  const results: EncoderProbe[] = [];
  for (const { pooled, tokens } of all)
    results.push({ pooled: await probe(pooled), tokens: await probe(tokens) });
  return results;
}
