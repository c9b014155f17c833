// Philox in TypeScript against known answers and an implementation with whole numbers of any size; the sampler by its properties.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { philox4x32, PhiloxStream, purposes, type Words4 } from '../src/data/philox.js';
import { visiblePatches } from '../src/data/visible_patches.js';
import { FewToManySampler, type FewToManyOptions } from '../src/train/few_to_many.js';
import { assertRejects } from './support/errors.js';

/** The definition, word by word. */
function reference(counter: Words4, key: readonly [number, number]): bigint[] {
  const word = (value: bigint): bigint => value & 0xffffffffn;
  let [c0, c1, c2, c3] = counter.map(BigInt) as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key.map(BigInt) as [bigint, bigint];
  for (let round = 0; round < 10; round++) {
    const product0 = 0xd2511f53n * c0;
    const product1 = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [
      (product1 >> 32n) ^ c1 ^ k0,
      word(product1),
      (product0 >> 32n) ^ c3 ^ k1,
      word(product0),
    ];
    k0 = word(k0 + 0x9e3779b9n);
    k1 = word(k1 + 0xbb67ae85n);
  }
  return [c0, c1, c2, c3];
}

test('Philox gives the known answers of Random123', () => {
  const ones = 0xffffffff;
  assert.equal(philox4x32([0, 0, 0, 0], [0, 0]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  assert.equal(
    philox4x32([ones, ones, ones, ones], [ones, ones]),
    [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
  );
  assert.equal(
    philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  );
});

test('Philox agrees with its definition at 1000 counters', () => {
  let state: Words4 = [1, 2, 3, 4];
  for (let i = 0; i < 1000; i++) {
    const key = [(i * 2654435761) >>> 0, state[3]] as const;
    const next = philox4x32(state, key);
    assert.equal(next.map(BigInt), reference(state, key));
    state = next;
  }
});

test('a stream is the blocks at its counters, and depends on every part of its place', () => {
  const seed = 2 ** 33 + 5;
  const stream = new PhiloxStream(seed, 'visible', { step: 7, slot: 3, item: 2 });
  const drawn = Array.from({ length: 8 }, () => stream.next());
  const what = purposes.visible | (2 << 8);
  assert.equal(drawn, [...philox4x32([0, what, 3, 7], [5, 2]), ...philox4x32([1, what, 3, 7], [5, 2])]);
  const firsts = [
    new PhiloxStream(seed, 'visible', { step: 8, slot: 3, item: 2 }),
    new PhiloxStream(seed, 'visible', { step: 7, slot: 4, item: 2 }),
    new PhiloxStream(seed, 'visible', { step: 7, slot: 3, item: 1 }),
    new PhiloxStream(seed, 'flips', { step: 7, slot: 3, item: 2 }),
    new PhiloxStream(seed + 1, 'visible', { step: 7, slot: 3, item: 2 }),
  ].map((other) => other.next());
  assert.is(new Set([...firsts, drawn[0]]).size, 6);
  assert.is(new Set(Object.values(purposes)).size, Object.keys(purposes).length);
});

function add(counts: number[], at: number): void {
  counts[at] = (counts[at] ?? 0) + 1;
}

/** Fails when counts are farther from even than chance has it (5 standard deviations of each). */
function assertEven(counts: readonly number[], what: string): void {
  const total = counts.reduce((a, b) => a + b);
  const expected = total / counts.length;
  const deviation = Math.sqrt(expected * (1 - 1 / counts.length));
  for (const [i, count] of counts.entries())
    assert.ok(Math.abs(count - expected) <= 5 * deviation, `${what}: ${count} of ${i}, expected ${expected}`);
}

test('whole numbers and shuffles are even', () => {
  const stream = new PhiloxStream(1, 'inputs', { step: 0 });
  const counts = [0, 0, 0];
  for (let i = 0; i < 30_000; i++) add(counts, stream.below(3));
  assertEven(counts, 'below(3)');
  // A third of 2^32 · 3/4 would come twice as often without the numbers that are thrown away.
  const n = 3 * 2 ** 30;
  const thirds = [0, 0, 0];
  for (let i = 0; i < 30_000; i++) add(thirds, Math.floor(stream.below(n) / 2 ** 30));
  assertEven(thirds, 'below(3 · 2^30)');
  const orders = new Map<string, number>();
  for (let i = 0; i < 24_000; i++) {
    const order = stream.choose(4, 4).join('');
    orders.set(order, (orders.get(order) ?? 0) + 1);
  }
  assert.is(orders.size, 24);
  assertEven([...orders.values()], 'orders of 4');
});

const dataset = { identities: 10, photos: (identity: number) => (identity === 9 ? 2 : 12) };
const options: FewToManyOptions = {
  seed: 3,
  identitiesPerStep: 4,
  inputs: 3,
  targets: 8,
  maskRatio: 0.95,
  patches: 64,
};

test('a step’s sample follows from its number alone', () => {
  const one = new FewToManySampler(dataset, options);
  const inOrder = Array.from({ length: 12 }, (_, step) => one.sample(step));
  const other = new FewToManySampler(dataset, options);
  for (const step of [11, 0, 5, 4, 3, 10]) assert.equal(other.sample(step), inOrder[step]);
  assert.not.equal(new FewToManySampler(dataset, { ...options, seed: 4 }).sample(0), inOrder[0]);
});

test('the numbers of a seed do not change', () => {
  // Samples of a run that was interrupted must be those of before: a change here breaks every checkpoint.
  const { identities } = new FewToManySampler(dataset, options).sample(0);
  assert.equal(
    identities.map(({ identity }) => identity),
    [9, 5, 0, 8],
  );
  assert.equal(identities[1]?.inputs, [6, 0, 8]);
  assert.equal(identities[1]?.targets, [11, 6, 7, 1, 10, 5, 2, 3]);
  assert.equal(Array.from(identities[1]?.visible[0] ?? []), [3, 57, 61]);
});

test('every identity comes once in an epoch, in another order in the next', () => {
  const sampler = new FewToManySampler(dataset, options);
  const drawn = Array.from({ length: 10 }, (_, step) =>
    sampler.sample(step).identities.map(({ identity }) => identity),
  ).flat();
  const epochs = [0, 1, 2, 3].map((epoch) => drawn.slice(epoch * 10, epoch * 10 + 10));
  for (const epoch of epochs) assert.is(new Set(epoch).size, 10);
  assert.is(new Set(epochs.map(String)).size, 4);
});

test('photos are drawn without replacement as far as there are enough', () => {
  const sampler = new FewToManySampler(dataset, options);
  assert.equal(sampler.shortOfPhotos, [9]);
  const uses = Array.from({ length: 12 }, () => 0);
  for (let step = 0; step < 500; step++) {
    for (const { identity, inputs, targets } of sampler.sample(step).identities) {
      assert.is(inputs.length, 3);
      assert.is(targets.length, 8);
      if (identity === 9) {
        assert.is(targets.filter((photo) => photo === 0).length, 4);
        assert.is(new Set(inputs).size, 2);
        continue;
      }
      assert.is(new Set(inputs).size, 3);
      assert.is(new Set(targets).size, 8);
      for (const photo of inputs) add(uses, photo);
    }
  }
  assertEven(uses, 'inputs');
});

test('targets can be kept apart from inputs', () => {
  const apart = new FewToManySampler(dataset, { ...options, targetsMayIncludeInputs: false });
  for (let step = 0; step < 100; step++) {
    for (const { inputs, targets, identity } of apart.sample(step).identities) {
      for (const photo of targets) assert.not(inputs.includes(photo));
      if (identity !== 9) assert.is(new Set([...inputs, ...targets]).size, 11);
    }
  }
  assert.equal(apart.shortOfPhotos, [9]);
  const one = new FewToManySampler(
    { identities: 1, photos: () => 1 },
    { ...options, targetsMayIncludeInputs: false },
  );
  assert.equal(one.sample(0).identities[0]?.inputs, [0, 0, 0]);
});

test('the number of inputs may vary; what else is drawn does not depend on R', () => {
  const varying = new FewToManySampler(dataset, { ...options, inputs: [1, 4] });
  const counts = [0, 0, 0, 0];
  for (let step = 0; step < 2000; step++) {
    const { inputs, identities } = varying.sample(step);
    add(counts, inputs - 1);
    for (const identity of identities) assert.is(identity.inputs.length, inputs);
  }
  assertEven(counts, 'S');
  const few = new FewToManySampler(dataset, { ...options, targets: 2 }).sample(5).identities;
  for (const [slot, { inputs, visible }] of new FewToManySampler(dataset, options)
    .sample(5)
    .identities.entries()) {
    assert.equal(few[slot]?.inputs, inputs);
    assert.equal(few[slot]?.visible, visible.slice(0, 2));
  }
});

test('flips and visible patches', () => {
  const sampler = new FewToManySampler(dataset, { ...options, flipProbability: 0.25 });
  assert.is(sampler.visiblePerTarget, 3);
  const seen = Array.from({ length: 64 }, () => 0);
  let flips = 0;
  let photos = 0;
  for (let step = 0; step < 300; step++) {
    for (const { inputFlips, targetFlips, visible } of sampler.sample(step).identities) {
      photos += inputFlips.length + targetFlips.length;
      flips += [...inputFlips, ...targetFlips].filter(Boolean).length;
      for (const patches of visible) {
        assert.is(patches.length, 3);
        assert.ok(patches.every((patch, i) => patch < 64 && patch > (patches[i - 1] ?? -1)));
        for (const patch of patches) add(seen, patch);
      }
    }
  }
  assertEven(seen, 'visible patches');
  assertEven(
    [flips * 3, photos - flips].map((n) => n / 3),
    'flips',
  );
  const never = new FewToManySampler(dataset, { ...options, flipProbability: 0 }).sample(0).identities;
  assert.not(never.some(({ inputFlips, targetFlips }) => [...inputFlips, ...targetFlips].includes(true)));
  assert.is(visiblePatches(64, 0.95), 3);
  assert.is(visiblePatches(256, 0.95), 13);
  assert.is(visiblePatches(4, 0.99), 1);
});

test('options that cannot be are refused, all at once', async () => {
  const make = (wrong: Record<string, unknown>) => () =>
    new FewToManySampler(dataset, { ...options, ...wrong });
  const code = 'ERR_INVALID_ARGUMENT';
  await assertRejects(make({ inputs: 0 }), code, 'inputs is 0', 'from 1 to 2^53 − 1, or [fewest, most]');
  await assertRejects(make({ targets: 0, maskRatio: 1 }), code, 'targets is 0', 'maskRatio is 1', 'below 1');
  for (const maskRatio of [0, -1, NaN, '0.5']) await assertRejects(make({ maskRatio }), code, 'maskRatio is');
  for (const inputs of [[0, 3], [3, 2], [1], [1, 2, 3], 1.5, '3', null])
    await assertRejects(make({ inputs }), code, 'inputs is');
  await assertRejects(make({ seed: -1 }), code, 'seed is -1');
  await assertRejects(make({ identitiesPerStep: 0 }), code, 'identitiesPerStep is 0');
  await assertRejects(make({ patches: 0 }), code, 'patches is 0');
  await assertRejects(make({ flipProbability: 1.1 }), code, 'flipProbability is 1.1', '0 to 1');
  await assertRejects(make({ targetsMayIncludeInputs: 'no' }), code, 'targetsMayIncludeInputs is "no"');
  await assertRejects(
    () => new FewToManySampler({ identities: 0, photos: () => 1 }, options),
    code,
    '0 identities',
  );
  await assertRejects(() => new FewToManySampler(dataset, options).sample(-1), code, 'the step is -1');
});

test.run();
