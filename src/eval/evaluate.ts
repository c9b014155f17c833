import { crc32 } from 'node:zlib';
import { RenderedDataset } from '../data/rendered_dataset.js';
import { DeviceError } from '../errors.js';
import { availableMemory } from '../io/memory.js';
import { OmniIdEncoder } from '../models/omni_id_encoder.js';
import type { TrainedPair } from '../models/trained_pair.js';
import { choiceOf, type Choice } from './choice.js';
import { readHeldOut } from './held_out.js';
import {
  identityProbe,
  probedCoefficients,
  widestFeatures,
  type EncoderProbe,
  type ProbeOptions,
} from './identity_probe.js';
import { swappedTokens, type Swapped } from './pairs.js';
import { meanTokens, neighbours, peoplesTokens, type PeoplesTokens } from './peoples_tokens.js';
import { PairedTargets, type ConditionReport } from './reconstruction.js';
import { settingsOf, type EvaluateOptions } from './settings.js';
import type { Estimate } from './statistics.js';
import { counted, gigabytes } from '../text.js';

export interface EvaluationReport {
  readonly data: string;
  readonly people: number;
  /** Whom these are. */
  readonly names: readonly string[];
  readonly chosenBy: Choice['by'];
  /** Reasons to think that some of them were trained on. */
  readonly cautions: readonly string[];
  /** People that were left out, because there are too few photos of them that can be read. */
  readonly tooFewPhotos: number;
  readonly unreadablePhotos: number;
  /** Photos that ℓ was made from. */
  readonly inputs: number;
  /** Of all people together. */
  readonly targets: number;
  /** Those with a face mask; of others every pixel counts. */
  readonly maskedTargets: number;
  readonly maskRatio: number;
  readonly visiblePatches: number;
  readonly patches: number;
  readonly seed: number;
  /** Losses of the same targets, with the same visible patches, by whose ℓ was used. */
  readonly reconstruction: {
    readonly right: { readonly loss: Estimate };
    readonly otherPerson: ConditionReport;
    readonly meanPerson: ConditionReport;
    /** ℓ of 1, 3 and 8 photos, as far as there are as many. */
    readonly byPhotos: readonly ({ readonly photos: number } & Pick<
      ConditionReport,
      'loss' | 'aboveRight'
    >)[];
    /** Rendered people only: ℓ of a person of equal colouring and another shape, in the very views of the right inputs. */
    readonly sameColouringOtherShape?: ConditionReport;
    /** Rendered people only: the other way round. */
    readonly sameShapeOtherColouring?: ConditionReport;
  };
  /** Rendered people only. */
  readonly probe?: ProbeOptions & {
    readonly coefficients: number;
    readonly trained: EncoderProbe;
    readonly untrained: EncoderProbe;
  };
}

/** Photos that ℓ is made from, beside those of training. */
const photoCounts = [1, 3, 8];

/** Begins a stage of so much work; what it gives is called with how much more is done. */
type Stage = (name: string, total: number) => (more: number) => void;

/**
 * What a trained pair has learned, on people that it has not seen: how much better targets are rebuilt with the right person's ℓ than with others, and
 * how much of the shape is told by ℓ. The same options give the same numbers.
 *
 * Peak memory: all photos of the people, decoded; the probe's features (a `nano` encoder: 180 MB each for 1,800 people, trained and untrained).
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`; {DatasetError} `ERR_DATASET` when fewer than two people have enough photos; {DeviceError}
 *   `ERR_OUT_OF_MEMORY`; the signal's reason when aborted
 */
export async function evaluate(
  { encoder, decoder, heldOut }: Pick<TrainedPair, 'encoder' | 'decoder'> & Partial<TrainedPair>,
  options: EvaluateOptions = {},
): Promise<EvaluationReport> {
  const settings = settingsOf(options, { maskRatio: decoder.config.maskRatio, heldOut });
  const { data, firstSeed, view, identities, views, targets, inputs, maskRatio, seed } = settings;
  const { signal, onProgress } = options;
  const size = encoder.config.vision.imageSize;
  const stage: Stage = (name, total) => {
    let done = 0;
    onProgress?.({ stage: name, done, total });
    return (more) => {
      onProgress?.({ stage: name, done: (done += more), total });
    };
  };

  const dataset =
    data.kind === 'stored' ? data.dataset : new RenderedDataset({ identities, views, firstSeed, ...view });
  checkMemory(Math.min(identities, dataset.identities), encoder, decoder, settings);
  const { by: chosenBy, identities: from, cautions } = choiceOf(heldOut, dataset, settings);
  for (const caution of cautions) options.onCaution?.(caution);
  const { people, tooFewPhotos, unreadablePhotos } = await readHeldOut(dataset, {
    identities, from, inputs: views - targets, targets, seed, inputSize: size, targetSize: decoder.config.imageSize, signal,
    onPerson: (done, total) => onProgress?.({ stage: 'reading people', done, total }),
    // Whom else a data set on disk has changes nothing for a person.
    ...(data.kind === 'stored' && { slotOf: (identity: number) => crc32(dataset.identityName(identity)) }),
  }); // prettier-ignore

  // ℓ of fewer photos is made from the first of them.
  const counts = [...new Set([inputs, ...photoCounts.filter((count) => count <= views - targets)])];
  const onPeople = stage('embedding people', people.length * counts.length);
  const byCount = new Map<number, PeoplesTokens>();
  for (const count of counts) {
    const photosOf = (i: number) => Promise.resolve(people[i]?.inputs.slice(0, count) ?? []);
    byCount.set(count, await peoplesTokens(encoder, people.length, photosOf, { signal, onPeople }));
  }
  const swapped = new Map<Swapped, PeoplesTokens>();
  if (data.kind === 'rendered') {
    const onPairs = stage('embedding pairs', 2 * people.length);
    for (const what of ['shape', 'colouring'] as const) {
      const rendered = { firstSeed, view, inputs };
      swapped.set(what, await swappedTokens(encoder, people, what, rendered, { signal, onPeople: onPairs }));
    }
  }

  const paired = new PairedTargets(decoder, people, { maskRatio, seed });
  const onTargets = stage('rebuilding targets', (2 + counts.length + swapped.size) * paired.count);
  const lossesOf = (tokens: PeoplesTokens): Promise<Float64Array> =>
    paired.losses(tokens, { signal, onTargets });
  const right = byCount.get(inputs);
  if (!right) throw new Error('ℓ of the inputs was not made');
  const rightLosses = await lossesOf(right);
  const report = async (tokens: PeoplesTokens): Promise<ConditionReport> =>
    paired.report(tokens === right ? rightLosses : await lossesOf(tokens), rightLosses);
  const byPhotos = [];
  for (const photos of [...counts].sort((a, b) => a - b)) {
    const { loss, aboveRight } = await report(byCount.get(photos) ?? right);
    byPhotos.push({ photos, loss, aboveRight });
  }
  const [otherShape, otherColouring] = [swapped.get('shape'), swapped.get('colouring')];
  const reconstruction = {
    right: { loss: paired.mean(rightLosses) },
    otherPerson: await report(neighbours(right)),
    meanPerson: await report(meanTokens(right)),
    byPhotos,
    ...(otherShape && { sameColouringOtherShape: await report(otherShape) }),
    ...(otherColouring && { sameShapeOtherColouring: await report(otherColouring) }),
  };

  const { probe } = settings;
  const probed = probe && (await probedBoth(encoder, probe, settings.untrainedSeed, options, stage));
  return {
    data: dataset.name,
    people: people.length,
    names: people.map(({ name }) => name),
    chosenBy,
    cautions,
    tooFewPhotos,
    unreadablePhotos,
    inputs,
    targets: paired.count,
    maskedTargets: paired.masked,
    maskRatio,
    visiblePatches: paired.visiblePatches,
    patches: decoder.patches,
    seed,
    reconstruction,
    ...(probed && { probe: probed }),
  };
}

/** @throws {DeviceError} `ERR_OUT_OF_MEMORY` when so many people do not fit into memory: found out before anything is read */
function checkMemory(
  people: number,
  { config: { vision, tokens, width } }: OmniIdEncoder,
  { config: { imageSize } }: TrainedPair['decoder'],
  { views, targets, probe }: ReturnType<typeof settingsOf>,
): void {
  const photos = people * ((views - targets) * 3 * vision.imageSize ** 2 + targets * 4 * imageSize ** 2);
  const probed = probe ? probe.trainPeople + probe.testPeople : 0;
  // f32, of a trained and an untrained encoder.
  const features = 2 * 4 * probed * Math.min(tokens * width, widestFeatures);
  const available = availableMemory();
  if (photos + features <= available) return;
  throw new DeviceError(
    'ERR_OUT_OF_MEMORY',
    `photos of ${counted(people, 'person')} need ${gigabytes(photos)} and the probe's features ${gigabytes(features)}, available are ${gigabytes(available)}: expected fewer identities, views, or people of the probe`,
  );
}

/** The probe of an encoder, and of one with new weights beside it: what photos tell by themselves. */
async function probedBoth(
  encoder: OmniIdEncoder,
  probe: ProbeOptions,
  seed: number,
  { device, threads, signal }: EvaluateOptions,
  stage: Stage,
): Promise<NonNullable<EvaluationReport['probe']>> {
  await using untrained = await OmniIdEncoder.create(encoder.config, { seed, dtype: encoder.dtype, device, threads, signal }); // prettier-ignore
  const onPhotos = stage('probing', (probe.trainPeople + probe.testPeople) * probe.photos);
  const [ofTrained, ofUntrained] = await identityProbe([encoder, untrained], probe, { device, threads, signal, onPhotos }); // prettier-ignore
  if (!ofTrained || !ofUntrained) throw new Error('two encoders give two probes');
  return { ...probe, coefficients: probedCoefficients, trained: ofTrained, untrained: ofUntrained };
}
