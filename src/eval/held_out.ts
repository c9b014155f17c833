import { ahead } from '../data/ahead.js';
import type { IdentityDataset, TrainingPhoto } from '../data/dataset.js';
import { PhiloxStream } from '../data/philox.js';
import { DatasetError, ImageError } from '../errors.js';
import { counted } from '../text.js';

/** Photos of one held-out person. No photo is an input and a target. */
export interface HeldOutPerson {
  /** In the data set. */
  readonly identity: number;
  /** What is random about the person follows from the seed and this. */
  readonly slot: number;
  readonly name: string;
  /** Numbers of the photos that ℓ may be made from; ℓ of fewer is made from the first of them. */
  readonly inputPhotos: readonly number[];
  /** Their pixels, RGB [size, size, 3]. */
  readonly inputs: readonly Uint8Array[];
  /** What is rebuilt, at the decoder's size. */
  readonly targets: readonly TrainingPhoto[];
}

export interface HeldOutPeople {
  readonly people: readonly HeldOutPerson[];
  /** People of whom there are too few photos. */
  readonly tooFewPhotos: number;
  /** Photos that could not be read, and were replaced by others of the person. */
  readonly unreadablePhotos: number;
}

export interface HeldOutOptions {
  /** How many people at most: the last ones. */
  readonly identities: number;
  /** Numbers of the people to choose from, in order. Default: all. */
  readonly from?: readonly number[] | undefined;
  readonly inputs: number;
  readonly targets: number;
  /** Of the choice of photos. */
  readonly seed: number;
  /** A person's slot in random numbers: whole, from 0 to 2^32 − 1. Default: the number in the data set. */
  readonly slotOf?: (identity: number) => number;
  readonly inputSize: number;
  readonly targetSize: number;
  readonly signal?: AbortSignal | undefined;
  onPerson?(done: number, total: number): void;
}

/** People that are read at once. */
const peopleAhead = 2;

/**
 * Reads the last people of a data set, or of some of it, that have enough photos. Which of a person's photos are inputs and which are targets follows from
 * the seed. Peak memory: all of these photos, decoded.
 * @throws {DatasetError} `ERR_DATASET` when fewer than two people have enough photos; the signal's reason when aborted
 */
export async function readHeldOut(dataset: IdentityDataset, options: HeldOutOptions): Promise<HeldOutPeople> {
  const { identities, inputs, targets, signal } = options;
  const wanted = inputs + targets;
  const from = options.from ?? Array.from({ length: dataset.identities }, (_, identity) => identity);
  const enough = from.filter((identity) => dataset.photos(identity) >= wanted);
  const chosen = enough.slice(-identities);
  const people: HeldOutPerson[] = [];
  let unreadablePhotos = 0;
  let done = 0;
  const reading = ahead(chosen, peopleAhead, (identity) => readPerson(dataset, identity, options), signal);
  for await (const { person, unreadable } of reading) {
    unreadablePhotos += unreadable;
    if (person) people.push(person);
    options.onPerson?.(++done, chosen.length);
  }
  if (people.length < 2) {
    throw new DatasetError(
      `${dataset.name} has ${counted(people.length, 'person')} with ${counted(wanted, 'readable photo')} (${counted(inputs, 'input')}, ${counted(targets, 'target')})${options.from ? ' among those that training held out' : ''}, ` +
        'expected at least 2: ask for fewer photos of each (--views)',
    );
  }
  const tooFewPhotos = from.length - enough.length + chosen.length - people.length;
  return { people, tooFewPhotos, unreadablePhotos };
}

async function readPerson(
  dataset: IdentityDataset,
  identity: number,
  { inputs, targets, seed, slotOf = (number) => number, inputSize, targetSize, signal }: HeldOutOptions,
): Promise<{ person: HeldOutPerson | undefined; unreadable: number }> {
  const count = dataset.photos(identity);
  const slot = slotOf(identity);
  const order = new PhiloxStream(seed, 'inputs', { step: 0, slot }).choose(count, count);
  let next = 0;
  let unreadable = 0;
  /** So many of the photos that come next, with others in place of those that cannot be read. */
  const read = async (wanted: number, size: number): Promise<{ number: number; photo: TrainingPhoto }[]> => {
    const found: { number: number; photo: TrainingPhoto }[] = [];
    while (found.length < wanted && next < count) {
      signal?.throwIfAborted();
      const numbers = order.subarray(next, next + wanted - found.length);
      next += numbers.length;
      const photos = await Promise.allSettled(
        Array.from(numbers, (number) => dataset.read(identity, number, size)),
      );
      for (const [i, result] of photos.entries()) {
        if (result.status === 'fulfilled') found.push({ number: numbers[i] ?? 0, photo: result.value });
        else if (result.reason instanceof ImageError) unreadable++;
        else throw result.reason; // not the photo's fault
      }
    }
    return found;
  };
  const first = await read(inputs, inputSize);
  const second = await read(targets, targetSize);
  if (first.length < inputs || second.length < targets) return { person: undefined, unreadable };
  const person = {
    identity,
    slot,
    name: dataset.identityName(identity),
    inputPhotos: first.map(({ number }) => number),
    inputs: first.map(({ photo }) => photo.pixels),
    targets: second.map(({ photo }) => photo),
  };
  return { person, unreadable };
}
