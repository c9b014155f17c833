import { quiet } from '../data/ahead.js';
import type { IdentityDataset, TrainingPhoto } from '../data/dataset.js';
import { DatasetError, DisposedError, ImageError } from '../errors.js';
import { check, whole } from '../kinds.js';
import type { FewToManySampler, IdentitySample, StepSample } from './few_to_many.js';
import { counted } from '../text.js';

/** The photos of a training step. Identities follow each other in all arrays, so that a part of a step is a part of each array. */
export interface Batch {
  readonly step: number;
  /** RGB, [identities · S, size, size, 3]. */
  readonly inputs: Uint8Array;
  /** RGB, [identities · R, size, size, 3]. */
  readonly targets: Uint8Array;
  /** [identities · R, size, size]: 1 inside the face, else 0; all 1 for a photo without a mask. */
  readonly masks: Uint8Array;
  /** [identities · R, K]: the patches that stay visible. */
  readonly visible: Int32Array;
  /** What was drawn, with what could not be read replaced. */
  readonly sample: StepSample;
}

/** A photo that could not be read and was replaced. */
export interface PhotoProblem {
  readonly identity: number;
  readonly identityName: string;
  readonly photo: number;
  readonly error: unknown;
}

export interface BatchLoaderOptions {
  /** Side of the photos, in pixels. */
  readonly size: number;
  readonly firstStep: number;
  /** The step after the last one. Default: no end. */
  readonly endStep?: number | undefined;
  /** Steps that are read before they are asked for. Default: 2. */
  readonly ahead?: number | undefined;
  /** Photos that are read at once. Default: 3, one less than libuv's threads. */
  readonly parallel?: number | undefined;
  /** Given each photo that cannot be read, once. */
  readonly onProblem?: ((problem: PhotoProblem) => void) | undefined;
  /** Problems that are given to `onProblem`; the others are counted only. Default: 20. */
  readonly reportAtMost?: number | undefined;
}

/** At most so many at once; the others wait in order. */
class Limit {
  readonly #waiting: (() => void)[] = [];
  readonly #underWay = new Set<Promise<unknown>>();
  #running = 0;

  constructor(private readonly most: number) {}

  async run<T>(body: () => Promise<T>): Promise<T> {
    if (this.#running >= this.most) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#running++;
    const work = body();
    this.#underWay.add(work);
    try {
      return await work;
    } finally {
      this.#underWay.delete(work);
      const next = this.#waiting.shift();
      if (next) next();
      else this.#running--;
    }
  }

  /** Resolves when nothing is under way, however it ends. */
  async idle(): Promise<void> {
    while (this.#underWay.size > 0) await Promise.allSettled(this.#underWay);
  }
}

/** Copies an RGB photo, mirrored where asked for. */
function copyPixels(from: Uint8Array, to: Uint8Array, size: number, flip: boolean): void {
  if (!flip) {
    to.set(from);
    return;
  }
  const row = 3 * size;
  for (let start = 0; start < size * row; start += row) {
    let source = start + row - 3;
    for (let at = start; at < start + row; at += 3, source -= 3) {
      to[at] = from[source] ?? 0;
      to[at + 1] = from[source + 1] ?? 0;
      to[at + 2] = from[source + 2] ?? 0;
    }
  }
}

/** Copies a mask as ones and zeros, mirrored like its photo. */
function copyMask(from: Uint8Array, to: Uint8Array, size: number, flip: boolean): void {
  const step = flip ? -1 : 1;
  for (let start = 0; start < size * size; start += size) {
    let source = flip ? start + size - 1 : start;
    for (let at = start; at < start + size; at++, source += step) to[at] = from[source] === 0 ? 0 : 1;
  }
}

/** What was drawn for one identity of a step in the end, and its photos. */
interface Place {
  readonly sample: IdentitySample;
  readonly inputs: readonly TrainingPhoto[];
  readonly targets: readonly TrainingPhoto[];
}

/**
 * Reads the photos of training steps ahead of the training, in order. Peak memory: `ahead` + 1 batches, and the photos that are being read.
 *
 * A photo that cannot be read is counted and replaced by another one of the same identity, drawn by the step's own random numbers, so that the same data set
 * gives the same batches. An identity of which nothing can be read ends the work: what was there before training is gone.
 */
export class BatchLoader {
  readonly #queue: Promise<Batch>[] = [];
  readonly #limit: Limit;
  readonly #bad = new Set<string>();
  #nextStep: number;
  #stopped = false;

  /** @throws {ArgumentError} `ERR_INVALID_ARGUMENT` */
  constructor(
    private readonly dataset: IdentityDataset,
    private readonly sampler: FewToManySampler,
    private readonly options: BatchLoaderOptions,
  ) {
    const { size, firstStep, ahead = 2, parallel = 3 } = options;
    for (const [name, value, least] of [
      ['size', size, 1],
      ['firstStep', firstStep, 0],
      ['ahead', ahead, 1],
      ['parallel', parallel, 1],
    ] as const) {
      check(name, value, whole(least));
    }
    this.#limit = new Limit(parallel);
    this.#nextStep = firstStep;
    this.#refill();
  }

  /** Photos that could not be read so far. */
  get unreadablePhotos(): number {
    return this.#bad.size;
  }

  /**
   * The next step's photos, and how long they were waited for, in milliseconds.
   * @throws {DatasetError} `ERR_DATASET` when nothing of an identity can be read; {DisposedError} `ERR_DISPOSED` after `stop()`
   */
  async next(): Promise<{ batch: Batch; waitedMs: number }> {
    this.#refill();
    const first = this.#queue.shift();
    if (this.#stopped) throw new DisposedError('the batch loader was stopped');
    if (!first) throw new Error(`all steps up to ${this.#nextStep} have been loaded`);
    this.#refill();
    const started = performance.now();
    const batch = await first;
    return { batch, waitedMs: performance.now() - started };
  }

  /** Begins no more reads, and resolves when none is under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.allSettled(this.#queue);
    this.#queue.length = 0;
    // A step fails with the first of its reads.
    await this.#limit.idle();
  }

  #refill(): void {
    const { ahead = 2, endStep = Infinity } = this.options;
    while (!this.#stopped && this.#queue.length < ahead && this.#nextStep < endStep) {
      this.#queue.push(quiet(this.#load(this.#nextStep++)));
    }
  }

  async #load(step: number): Promise<Batch> {
    const { size } = this.options;
    const drawn = this.sampler.sample(step);
    const places = await Promise.all(
      drawn.identities.map((identity, slot) => this.#photos(step, slot, identity)),
    );
    const identities = places.map(({ sample }) => sample);
    const targetsEach = identities[0]?.targets.length ?? 0;
    const kept = this.sampler.visiblePerTarget;

    const count = identities.length;
    const inputs = new Uint8Array(count * drawn.inputs * size * size * 3);
    const targets = new Uint8Array(count * targetsEach * size * size * 3);
    const masks = new Uint8Array(count * targetsEach * size * size);
    const visible = new Int32Array(count * targetsEach * kept);
    const square = (all: Uint8Array, index: number, channels: number): Uint8Array => {
      const bytes = size * size * channels;
      return all.subarray(index * bytes, (index + 1) * bytes);
    };
    for (const [slot, place] of places.entries()) {
      for (const [i, { pixels }] of place.inputs.entries()) {
        const at = slot * drawn.inputs + i;
        copyPixels(pixels, square(inputs, at, 3), size, place.sample.inputFlips[i] ?? false);
      }
      for (const [i, { pixels, mask }] of place.targets.entries()) {
        const at = slot * targetsEach + i;
        const flip = place.sample.targetFlips[i] ?? false;
        copyPixels(pixels, square(targets, at, 3), size, flip);
        if (mask) copyMask(mask, square(masks, at, 1), size, flip);
        else square(masks, at, 1).fill(1);
        visible.set(place.sample.visible[i] ?? [], at * kept);
      }
    }
    return { step, inputs, targets, masks, visible, sample: { ...drawn, identities } };
  }

  /** The photos of one place in a step, and what was drawn for it in the end. */
  async #photos(step: number, slot: number, drawn: IdentitySample): Promise<Place> {
    const { identity } = drawn;
    const read = new Map<number, TrainingPhoto>();
    // The same photo may be an input and a target.
    const wanted = new Set([...drawn.inputs, ...drawn.targets]);
    await Promise.all(
      Array.from(wanted, async (photo) => {
        const found = await this.#read(identity, photo);
        if (found) read.set(photo, found);
      }),
    );
    const readable = async (photo: number, item: number): Promise<[number, TrainingPhoto]> => {
      const there = read.get(photo);
      if (there) return [photo, there];
      for (const other of this.sampler.replacementPhotos(step, slot, item, identity)) {
        const found = read.get(other) ?? (await this.#read(identity, other));
        if (!found) continue;
        read.set(other, found);
        return [other, found];
      }
      throw new DatasetError(
        `${this.dataset.name}: nothing can be read of ${this.dataset.identityName(identity)}, none of ${counted(this.dataset.photos(identity), 'photo')}`,
      );
    };
    const all = [...drawn.inputs, ...drawn.targets];
    const photos: number[] = [];
    const found: TrainingPhoto[] = [];
    for (const [item, photo] of all.entries()) {
      const [used, pixels] = await readable(photo, item);
      photos.push(used);
      found.push(pixels);
    }
    const split = drawn.inputs.length;
    return {
      sample: { ...drawn, inputs: photos.slice(0, split), targets: photos.slice(split) },
      inputs: found.slice(0, split),
      targets: found.slice(split),
    };
  }

  /** A photo, or nothing when it cannot be read. */
  async #read(identity: number, photo: number): Promise<TrainingPhoto | undefined> {
    const key = `${identity} ${photo}`;
    if (this.#bad.has(key)) return undefined;
    const { size, onProblem, reportAtMost = 20 } = this.options;
    try {
      return await this.#limit.run(async () => {
        if (this.#stopped) throw new DisposedError('the batch loader was stopped');
        return await this.dataset.read(identity, photo, size);
      });
    } catch (error) {
      // Anything else is not the photo's fault.
      if (!(error instanceof ImageError || error instanceof DatasetError)) throw error;
      if (!this.#bad.has(key)) {
        this.#bad.add(key);
        const identityName = this.dataset.identityName(identity);
        if (this.#bad.size <= reportAtMost) onProblem?.({ identity, identityName, photo, error });
      }
      return undefined;
    }
  }
}
