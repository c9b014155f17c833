// Batches are what the sampler drew, photo by photo; what cannot be read is replaced, the same way every time.
import { rmSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { IdentityDataset, TrainingPhoto } from '../src/data/dataset.js';
import { FolderDataset } from '../src/data/folder_dataset.js';
import { ArgumentError, ImageError } from '../src/errors.js';
import {
  BatchLoader,
  type Batch,
  type BatchLoaderOptions,
  type PhotoProblem,
} from '../src/train/batch_loader.js';
import { FewToManySampler, type FewToManyOptions } from '../src/train/few_to_many.js';
import { assertRejects, errorOf } from './support/errors.js';
import { scratchFolder, write, writePeople } from './support/people.js';

const scratch = scratchFolder('batches');
const { at } = scratch;
test.after(scratch.remove);

const size = 16;
const options: FewToManyOptions = {
  seed: 5,
  identitiesPerStep: 3,
  inputs: 2,
  targets: 4,
  maskRatio: 0.75,
  patches: 16,
};

/** A data set in memory: pixels tell identity, photo and column; every third photo has no mask. */
class Made implements IdentityDataset {
  readonly name = 'made';
  readonly reads: string[] = [];
  running = 0;
  mostRunning = 0;

  constructor(
    readonly identities: number,
    private readonly count: number,
    private readonly bad: (identity: number, photo: number) => Error | undefined = () => undefined,
  ) {}

  photos(): number {
    return this.count;
  }

  identityName(identity: number): string {
    return `person-${identity}`;
  }

  async read(identity: number, photo: number, size: number): Promise<TrainingPhoto> {
    this.reads.push(`${identity} ${photo}`);
    this.mostRunning = Math.max(this.mostRunning, ++this.running);
    // Reads end in another order than they began.
    await new Promise((resolve) => setTimeout(resolve, (identity * 7 + photo * 3) % 5));
    this.running--;
    const error = this.bad(identity, photo);
    if (error) throw error;
    return pictureOf(identity, photo, size);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

function pictureOf(identity: number, photo: number, size: number): TrainingPhoto {
  const pixels = Uint8Array.from({ length: size * size * 3 }, (_, i) =>
    i % 3 === 0 ? identity : i % 3 === 1 ? photo : Math.floor(i / 3) % size,
  );
  const mask = Uint8Array.from({ length: size * size }, (_, i) => (i % size < 5 + (photo % 3) ? 200 : 0));
  return { pixels, mask: photo % 3 === 0 ? undefined : mask };
}

const unreadable = (): ImageError => new ImageError('ERR_IMAGE_UNREADABLE', 'damaged');

async function load(
  dataset: IdentityDataset,
  steps: number,
  settings: Partial<BatchLoaderOptions> = {},
  sampling: FewToManyOptions = options,
): Promise<{ batches: Batch[]; loader: BatchLoader }> {
  const sampler = new FewToManySampler(dataset, sampling);
  const loader = new BatchLoader(dataset, sampler, { size, firstStep: 0, ...settings });
  const batches: Batch[] = [];
  while (batches.length < steps) {
    const { batch, waitedMs } = await loader.next();
    assert.ok(waitedMs >= 0);
    batches.push(batch);
  }
  await loader.stop();
  return { batches, loader };
}

/** Fails unless a batch holds the photos of its sample, flipped as drawn, pixel by pixel. */
function assertHolds(batch: Batch, { inputs: S, identities }: Batch['sample'], targets: number): void {
  const column = (x: number, flip: boolean): number => (flip ? size - 1 - x : x);
  const check = (all: Uint8Array, index: number, identity: number, photo: number, flip: boolean): void => {
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        const p = 3 * ((index * size + y) * size + x);
        assert.equal([all[p], all[p + 1], all[p + 2]], [identity, photo, column(x, flip)]);
      }
    }
  };
  assert.is(batch.inputs.length, identities.length * S * size * size * 3);
  assert.is(batch.targets.length, identities.length * targets * size * size * 3);
  assert.is(batch.masks.length, identities.length * targets * size * size);
  for (const [slot, drawn] of identities.entries()) {
    for (const [i, photo] of drawn.inputs.entries())
      check(batch.inputs, slot * S + i, drawn.identity, photo, drawn.inputFlips[i] ?? false);
    for (const [i, photo] of drawn.targets.entries()) {
      const index = slot * targets + i;
      const flip = drawn.targetFlips[i] ?? false;
      check(batch.targets, index, drawn.identity, photo, flip);
      for (let x = 0; x < size; x++) {
        const inside = photo % 3 === 0 || column(x, flip) < 5 + (photo % 3);
        assert.is(batch.masks[(index * size + 3) * size + x], inside ? 1 : 0);
      }
      const kept = drawn.visible[i]?.length ?? 0;
      assert.equal(batch.visible.slice(index * kept, (index + 1) * kept), drawn.visible[i]);
    }
  }
}

test('batches hold what was drawn', async () => {
  const dataset = new Made(7, 9);
  for (const sampling of [options, { ...options, inputs: [1, 3] as const, flipProbability: 1 }]) {
    const { batches, loader } = await load(dataset, 6, {}, sampling);
    const sampler = new FewToManySampler(dataset, sampling);
    for (const [step, batch] of batches.entries()) {
      assert.is(batch.step, step);
      assert.equal(batch.sample, sampler.sample(step));
      assertHolds(batch, batch.sample, 4);
    }
    assert.is(loader.unreadablePhotos, 0);
  }
});

test('a batch does not depend on when and how it is read', async () => {
  const bad = (identity: number, photo: number): Error | undefined =>
    (identity + photo) % 4 === 0 ? unreadable() : undefined;
  const { batches } = await load(new Made(6, 7, bad), 8, { ahead: 1, parallel: 1 });
  const other = await load(new Made(6, 7, bad), 8, { ahead: 5, parallel: 8 });
  assert.equal(other.batches, batches);
  const later = await load(new Made(6, 7, bad), 3, { firstStep: 5, ahead: 3 });
  assert.equal(later.batches, batches.slice(5));
});

test('what cannot be read is replaced, counted and reported', async () => {
  const problems: PhotoProblem[] = [];
  const bad = (_identity: number, photo: number): Error | undefined =>
    photo === 2 || photo === 5 ? unreadable() : undefined;
  const dataset = new Made(5, 7, bad);
  const { batches, loader } = await load(dataset, 10, {
    reportAtMost: 6,
    onProblem: (problem) => problems.push(problem),
  });
  const sampler = new FewToManySampler(dataset, options);
  for (const batch of batches) {
    assertHolds(batch, batch.sample, 4);
    for (const [slot, drawn] of sampler.sample(batch.step).identities.entries()) {
      const used = batch.sample.identities[slot];
      assert.is(used?.identity, drawn.identity);
      for (const [i, photo] of drawn.targets.entries())
        if (photo !== 2 && photo !== 5) assert.is(used?.targets[i], photo);
      assert.not(
        [...(used?.inputs ?? []), ...(used?.targets ?? [])].some((photo) => photo === 2 || photo === 5),
      );
    }
  }
  // 2 of each of 5 people; none of them was tried again.
  assert.is(loader.unreadablePhotos, 10);
  assert.is(problems.length, 6);
  const [first] = problems;
  assert.is(first?.identityName, `person-${first?.identity}`);
  assert.is((first?.error as ImageError).message, 'damaged');
});

test('photos that are damaged on disk', async () => {
  await writePeople(at('people'), { a: 4, b: 4, c: 3 }, size);
  write(at('people/a/1.png'), 'no image');
  for (const file of ['0.png', '1.png']) write(at('people/c', file), '');
  const dataset = await FolderDataset.open(at('people'));
  const problems: string[] = [];
  const { batches, loader } = await load(dataset, 6, {
    onProblem: ({ error }) => problems.push((error as Error).message),
  });
  assert.is(loader.unreadablePhotos, 3);
  for (const name of ['a/1.png', 'c/0.png', 'c/1.png'])
    assert.ok(
      problems.some((message) => message.includes(at('people', name))),
      name,
    );
  for (const { sample } of batches)
    for (const { identity, targets } of sample.identities)
      if (identity === 2) assert.ok(targets.every((photo) => photo === 2));
  // What is gone while training goes on is no bad photo.
  rmSync(at('people/b'), { recursive: true });
  await assertRejects(() => load(dataset, 6), 'ERR_DATASET', at('people'), 'nothing can be read of b, none of 4 photos'); // prettier-ignore
});

test('errors come with the step that they belong to', async () => {
  const bug = new TypeError('not the photo’s fault');
  const dataset = new Made(6, 7, (identity) => (identity === 5 ? bug : undefined));
  const sampler = new FewToManySampler(dataset, options);
  const failing = [0, 1, 2].find((step) =>
    sampler.sample(step).identities.some(({ identity }) => identity === 5),
  );
  const loader = new BatchLoader(dataset, sampler, { size, firstStep: 0, ahead: 4 });
  for (let step = 0; step < (failing ?? 0); step++) assert.is((await loader.next()).batch.step, step);
  assert.is(await errorOf(() => loader.next()), bug);
  await loader.stop();
  const misuse = new Made(2, 7, () => new ArgumentError('misuse'));
  await assertRejects(() => load(misuse, 1), 'ERR_INVALID_ARGUMENT', 'misuse');
});

test('reads are bounded, and stop', async () => {
  const dataset = new Made(12, 20);
  const sampler = new FewToManySampler(dataset, options);
  const loader = new BatchLoader(dataset, sampler, { size, firstStep: 0, ahead: 2, parallel: 3 });
  await new Promise((resolve) => setTimeout(resolve, 200));
  // 3 people of at most 6 photos in 2 steps, each read once however often it was drawn.
  const wanted = [0, 1].flatMap((step) =>
    sampler
      .sample(step)
      .identities.flatMap(({ identity, inputs, targets }) =>
        Array.from(new Set([...inputs, ...targets]), (photo) => `${identity} ${photo}`),
      ),
  );
  assert.equal([...dataset.reads].sort(), wanted.sort());
  assert.is(dataset.mostRunning, 3);
  await loader.next();
  await loader.stop();
  assert.is(dataset.running, 0);
  const { length } = dataset.reads;
  await assertRejects(() => loader.next(), 'ERR_DISPOSED', 'stopped');
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.is(dataset.reads.length, length);
  await loader.stop();

  const short = new BatchLoader(dataset, sampler, { size, firstStep: 3, endStep: 5 });
  assert.equal([(await short.next()).batch.step, (await short.next()).batch.step], [3, 4]);
  assert.match((await errorOf(() => short.next())).message, 'all steps');
  for (const [name, value] of [
    ['size', 0],
    ['firstStep', -1],
    ['ahead', 0],
    ['parallel', 1.5],
  ] as const) {
    const make = (): BatchLoader => new BatchLoader(dataset, sampler, { size, firstStep: 0, [name]: value });
    await assertRejects(make, 'ERR_INVALID_ARGUMENT', `${name} is ${value}`);
  }
});

test.run();
