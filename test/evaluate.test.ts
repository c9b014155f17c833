// What an evaluation reports of a small untrained pair: the same targets for every ℓ, an encoder that ignores its photos, data without labels.
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { IdentityDataset } from '../src/data/dataset.js';
import { openDataset } from '../src/data/open_dataset.js';
import { choiceOf } from '../src/eval/choice.js';
import { evaluate, type EvaluationReport } from '../src/eval/evaluate.js';
import { readHeldOut } from '../src/eval/held_out.js';
import { groupedTokens } from '../src/eval/identity_probe.js';
import { meanTokens, neighbours } from '../src/eval/peoples_tokens.js';
import { settingsOf, type EvaluateOptions } from '../src/eval/settings.js';
import { heldOutSeed, MaskedTransformerDecoder, renderFace, RenderedDataset } from '../src/index.js';
import { readHeldOutRecord, type HeldOutRecord } from '../src/io/held_out_record.js';
import { loadPair } from '../src/models/trained_pair.js';
import { assertRejects, errorOf } from './support/errors.js';
import { scratchFolder, write, writePeople } from './support/people.js';
import { smallMtd, writeSmallPair } from './support/small_pair.js';
import { cleanUp, logOf, run } from './support/tiny_run.js';

const scratch = scratchFolder('evaluate');
const pair = scratch.at('pair');
/** Its tokens are those of its queries, whatever the photos. */
const blind = scratch.at('blind');

test.before(async () => {
  await writeSmallPair(pair);
  await writeSmallPair(blind, /^encoder\.cross_blocks\.\d+\.attn\.to_out\./);
});

const small = { identities: 5, views: 6, targets: 2, threads: 2, probe: { trainPeople: 30, testPeople: 10, photos: 2 } } satisfies EvaluateOptions; // prettier-ignore

async function evaluated(folder: string, options: EvaluateOptions): Promise<EvaluationReport> {
  await using loaded = await loadPair(folder, { dtype: 'f32', threads: 2 });
  return await evaluate(loaded, options);
}

test('rendered people: every part of the report', async () => {
  const stages: string[] = [];
  const report = await evaluated(pair, {
    ...small,
    onProgress: ({ stage, done, total }) => {
      assert.ok(done <= total, `${stage}: ${done} of ${total}`);
      if (done === total) stages.push(stage);
    },
  });
  assert.equal(stages, [
    'reading people',
    'embedding people',
    'embedding pairs',
    'rebuilding targets',
    'probing',
  ]);
  assert.equal(
    [
      report.people,
      report.targets,
      report.maskedTargets,
      report.inputs,
      report.patches,
      report.visiblePatches,
    ],
    [5, 10, 10, 3, 16, 2],
  );
  assert.match(report.data, '900000 to 900004');
  const { right, byPhotos, otherPerson, meanPerson, sameColouringOtherShape, sameShapeOtherColouring } =
    report.reconstruction;
  assert.ok(right.loss.mean > 0 && right.loss.standardError > 0);
  assert.equal(
    byPhotos.map(({ photos }) => photos),
    [1, 3],
    'no 8 of 4 inputs',
  );
  assert.equal(byPhotos[1], { photos: 3, loss: right.loss, aboveRight: { mean: 0, standardError: 0 } });
  for (const condition of [otherPerson, meanPerson, sameColouringOtherShape, sameShapeOtherColouring]) {
    if (!condition) throw new Error('a condition is missing');
    const { loss, aboveRight, rightWins } = condition;
    assert.ok(Math.abs(loss.mean - right.loss.mean - aboveRight.mean) < 1e-9, 'differences are paired');
    assert.ok(aboveRight.standardError > 0, 'another ℓ, another loss');
    assert.ok(rightWins >= 0 && rightWins <= 1);
  }
  const { probe } = report;
  if (!probe) throw new Error('the probe is missing');
  assert.equal([probe.firstSeed, probe.trainPeople, probe.testPeople, probe.photos], [910_000, 30, 10, 2]);
  for (const encoder of [probe.trained, probe.untrained])
    for (const { r2 } of [encoder.pooled, encoder.tokens])
      assert.ok(r2.length === 10 && r2.every((x) => x <= 1));
  assert.not.equal(probe.trained, probe.untrained);
});

test('the same options give the same numbers, another seed others', async () => {
  const options = { ...small, probe: false } as const;
  const first = await evaluated(pair, options);
  assert.equal(await evaluated(pair, options), first);
  const other = await evaluated(pair, { ...options, seed: 1 });
  assert.is.not(other.reconstruction.right.loss.mean, first.reconstruction.right.loss.mean);
  assert.is(first.probe, undefined);
});

test('an encoder that ignores its photos: whose ℓ it is makes no difference, and the probe finds nothing', async () => {
  const { reconstruction, probe } = await evaluated(blind, small);
  const { otherPerson, sameColouringOtherShape, sameShapeOtherColouring, byPhotos, meanPerson } =
    reconstruction;
  for (const condition of [otherPerson, sameColouringOtherShape, sameShapeOtherColouring]) {
    assert.equal(condition?.aboveRight, { mean: 0, standardError: 0 });
    assert.is(condition?.rightWins, 0, 'a draw is no win');
  }
  for (const { aboveRight } of byPhotos) assert.is(aboveRight.mean, 0);
  assert.ok(Math.abs(meanPerson.aboveRight.mean) < 1e-6);
  if (!probe) throw new Error('the probe is missing');
  for (const r2 of [...probe.trained.pooled.r2, ...probe.trained.tokens.r2])
    assert.ok(r2 <= 1e-6, `R² ${r2}`);
});

test('stored photos: no pairs, no probe; people with too few photos are left out, what cannot be read is replaced', async () => {
  const folder = scratch.at('people');
  await writePeople(folder, { anna: 6, ben: 2, carl: 5, dora: 7, eve: 6 }, 28);
  write(scratch.at('people', 'dora', '0.png'), 'no picture');
  write(scratch.at('people', 'anna', '0.png'), 'no picture');
  write(scratch.at('people', 'anna', '1.png'), 'no picture');
  const dataset = await openDataset(folder);
  try {
    const report = await evaluated(pair, {
      data: { kind: 'stored', dataset },
      views: 5,
      targets: 2,
      identities: 10,
    });
    assert.is(report.people, 3, 'carl, dora, eve');
    assert.is(report.tooFewPhotos, 2, 'ben has two photos, anna four that can be read');
    assert.ok(report.unreadablePhotos >= 2 && report.unreadablePhotos <= 3);
    assert.is(report.targets, 6);
    assert.not('probe' in report);
    assert.equal(Object.keys(report.reconstruction).sort(), [
      'byPhotos',
      'meanPerson',
      'otherPerson',
      'right',
    ]);
    const two = await readHeldOut(dataset, {
      identities: 2,
      inputs: 2,
      targets: 3,
      seed: 0,
      inputSize: 14,
      targetSize: 28,
    });
    assert.equal(
      two.people.map(({ name }) => name),
      ['dora', 'eve'],
      'the last ones',
    );
    assert.is(two.people[0]?.inputs[0]?.length, 14 * 14 * 3);
    assert.is(two.people[0]?.targets[0]?.pixels.length, 28 * 28 * 3);
    await assertRejects(() => evaluated(pair, { data: { kind: 'stored', dataset }, views: 7, identities: 10 }), 'ERR_DATASET', '0 people', '7 readable', 'at least 2', '--views'); // prettier-ignore
  } finally {
    await dataset.close();
  }
});

test('a model is judged by the people that its training held out, whatever came into the folder since', async () => {
  const folder = scratch.at('trained-on');
  await writePeople(folder, { ann: 5, ben: 5, cid: 5, dora: 5 }, 28);
  const data = { kind: 'folder', path: folder, heldOut: { identities: 2 } };
  const settings = [`data=${JSON.stringify(data)}`, 'steps=2', 'log.imagesEvery=null'];
  const trained = await run(settings);
  assert.equal(readFileSync(join(trained.folder, 'model/held_out.json')), readFileSync(join(trained.folder, 'held_out.json'))); // prettier-ignore
  const first = await openDataset(folder);
  await writePeople(folder, { abe: 5, eve: 5, fay: 5, gus: 5 }, 28);
  const second = await openDataset(folder);
  const evaluated = async (
    weights: string,
    identities?: number,
    dataset = second,
  ): Promise<EvaluationReport> => {
    await using loaded = await loadPair(weights, { dtype: 'f32', threads: 2 });
    return await evaluate(loaded, { data: { kind: 'stored', dataset }, views: 5, targets: 2, identities });
  };
  const weights = join(trained.folder, 'model');
  const report = await evaluated(weights);
  assert.equal([report.chosenBy, report.names, report.cautions], ['training', ['cid', 'dora'], []]);
  // Nor is any number another for it.
  assert.equal((await evaluated(weights, undefined, first)).reconstruction, report.reconstruction);
  // One without the file, as it was before there was one: the last ones.
  rmSync(join(weights, 'held_out.json'));
  const old = await evaluated(weights, 3);
  assert.equal([old.chosenBy, old.names, old.cautions], ['last', ['eve', 'fay', 'gus'], []]);
  write(join(weights, 'held_out.json'), '{"kind":"stored"}');
  await assertRejects(() => evaluated(weights), 'ERR_CONFIG', 'held_out.json', 'names');
  for (const one of [first, second]) await one.close();
  // Resumed, others would be held out, and those that were would be trained on.
  await assertRejects(() => run([...settings, 'steps=4'], { folder: trained.folder, resume: true }), 'ERR_DATASET', 'not the one that', 'held_out.json'); // prettier-ignore
  assert.is(logOf(trained.folder, 'train').length, 2);
});

test('a model says which views its training chose', async () => {
  const view = { poseSpread: 0.5, jitter: false };
  const { folder } = await run(['steps=1', `data.view=${JSON.stringify(view)}`]);
  const expected = { kind: 'rendered', firstSeed: heldOutSeed, identities: 3, trained: { firstSeed: 0, identities: 6 }, view }; // prettier-ignore
  assert.equal(await readHeldOutRecord(join(folder, 'model')), expected);
});

test('rendered people are seen as training saw its own, unless told otherwise', () => {
  const heldOut: HeldOutRecord = {
    kind: 'rendered',
    firstSeed: heldOutSeed,
    identities: 64,
    trained: { firstSeed: 0, identities: 10 },
    view: { poseSpread: 0.5, jitter: false },
  };
  const viewsOf = (options: EvaluateOptions) => {
    const { view, probe } = settingsOf(options, { maskRatio: 0.9, heldOut });
    return [view, probe?.view];
  };
  assert.equal(viewsOf({}), [heldOut.view, heldOut.view]);
  const other = { poseSpread: 1, crop: 2, jitter: false };
  assert.equal(
    viewsOf({
      data: { kind: 'rendered', view: { poseSpread: 1, crop: 2, jitter: undefined } },
      probe: { view: { crop: 3 } },
    }),
    [other, { ...other, crop: 3 }],
  );
});

test('people who may have been trained on are told', () => {
  const dataset = (...names: string[]): IdentityDataset => ({
    name: 'photos',
    identities: names.length,
    photos: () => 1,
    identityName: (identity) => names[identity] ?? '',
    read: () => Promise.reject(new Error('not read')),
    close: () => Promise.resolve(),
  });
  const stored = (record: HeldOutRecord | undefined, ...names: string[]) =>
    choiceOf(record, dataset(...names), settingsOf({ data: { kind: 'stored', dataset: dataset(...names) } }, { maskRatio: 0.9, heldOut: record })); // prettier-ignore
  const names = ['c', 'd'];
  const of: HeldOutRecord = { kind: 'stored', ofAnotherDataset: false, names };
  const cases: [choice: ReturnType<typeof choiceOf>, by: string, from: number[] | undefined, caution?: RegExp][] = [
    [stored(of, 'c', 'b', 'd'), 'training', [0, 2]],
    [stored(of, 'a', 'd'), 'training', [1], /^of 2 people that training held out, 1 cannot be found in photos$/],
    [stored(of, 'x', 'y'), 'last', undefined, /^of 2 people .* none can be found in photos: its last people may have been trained on$/],
    [stored({ ...of, names: [] }, 'x', 'y'), 'last', undefined, /held nobody out/],
    [stored({ ...of, ofAnotherDataset: true }, 'x'), 'last', undefined, /^of 2 people that training held out \(of another data set/],
    [stored(undefined, 'x', 'y'), 'last', undefined],
  ]; // prettier-ignore
  const seeds = (record: HeldOutRecord | undefined, options: EvaluateOptions) =>
    choiceOf(record, dataset(), settingsOf(options, { maskRatio: 0.9, heldOut: record }));
  const rendered = (firstSeed: number, identities: number): HeldOutRecord => ({ kind: 'rendered', firstSeed: heldOutSeed, identities: 64, trained: { firstSeed, identities }, view: {} }); // prettier-ignore
  const from = (firstSeed: number): EvaluateOptions => ({ data: { kind: 'rendered', firstSeed } });
  cases.push(
    [stored(rendered(5, 10), 'ann', '15', '4'), 'last', undefined],
    [stored(rendered(5, 10), 'ann', '14', '5'), 'last', undefined, /^2 people .* names like seeds .* 5 to 14$/],
    [seeds(rendered(0, 2000), {}), 'seeds', undefined],
    [seeds(rendered(0, 2000), from(2000)), 'seeds', undefined],
    [seeds(rendered(0, 2000), from(1999)), 'seeds', undefined, /people to rebuild .* 1999 to 2062,.*: 0 to 1999$/],
    [seeds(rendered(911_799, 9), {}), 'seeds', undefined, /of the probe .* 910000 to 911799/],
    [seeds(rendered(911_800, 9), {}), 'seeds', undefined],
    [seeds(undefined, from(5)), 'seeds', undefined, /seeds below 900000/],
    [seeds(undefined, {}), 'seeds', undefined],
    [seeds(of, from(5)), 'seeds', undefined],
  ); // prettier-ignore
  for (const [choice, by, identities, caution] of cases) {
    assert.equal([choice.by, choice.identities], [by, identities]);
    assert.is(choice.cautions.length, caution ? 1 : 0, choice.cautions.join());
    if (caution) assert.match(choice.cautions[0] ?? '', caution);
  }
});

test('inputs are not among the targets, and an error that is not a photo’s ends the evaluation', async () => {
  const read: string[] = [];
  const dataset: IdentityDataset = {
    name: 'recorded',
    identities: 3,
    photos: () => 9,
    identityName: String,
    read: (identity, photo, size) => {
      read.push(`${identity} ${photo}`);
      return Promise.resolve({ pixels: new Uint8Array(size * size * 3), mask: undefined });
    },
    close: () => Promise.resolve(),
  };
  const options = { identities: 3, inputs: 4, targets: 5, seed: 7, inputSize: 2, targetSize: 2 };
  const { people } = await readHeldOut(dataset, options);
  assert.is(new Set(read).size, 27, 'every photo once');
  const chosen = people.map(({ inputPhotos }) => inputPhotos);
  assert.not.equal(chosen[0], chosen[1]);
  assert.equal(
    (await readHeldOut(dataset, options)).people.map(({ inputPhotos }) => inputPhotos),
    chosen,
  );
  const failure = new Error('the disk is gone');
  assert.is(
    await errorOf(() => readHeldOut({ ...dataset, read: () => Promise.reject(failure) }, options)),
    failure,
  );
});

test('pairs differ in what they say', async () => {
  const [a, b] = [heldOutSeed, heldOutSeed + 1];
  const dataset = new RenderedDataset({ identities: 2, views: 1, firstSeed: heldOutSeed });
  const own = await dataset.read(0, 0, 28);
  const shape = await renderFace({ identity: a, shape: b, view: 0, size: 28 });
  assert.equal(shape.pose, own.pose, 'the same view');
  assert.not.equal(shape.identityCoefficients, own.identityCoefficients);
  const colouring = await renderFace({ identity: a, colouring: b, view: 0, size: 28 });
  assert.equal(colouring.identityCoefficients, own.identityCoefficients);
  assert.not.equal(colouring.pixels, own.pixels);
});

test('neighbours, means and groups of tokens', () => {
  const tokens = { data: Float32Array.of(1, 2, 3, 4, 5, 12), shape: [3, 2, 1] };
  assert.equal(neighbours(tokens), { data: Float32Array.of(3, 4, 5, 12, 1, 2), shape: [3, 2, 1] });
  assert.equal(meanTokens(tokens), { data: Float32Array.of(3, 6, 3, 6, 3, 6), shape: [3, 2, 1] });
  const five = Float32Array.of(1, 10, 2, 20, 3, 30, 4, 40, 5, 50);
  const out = new Float32Array(4);
  groupedTokens(five, 5, 2, out);
  assert.equal(out, Float32Array.of(2, 20, 4.5, 45), 'the first three, the last two');
  groupedTokens(five, 5, 1, out.subarray(0, 2));
  assert.equal(out.subarray(0, 2), Float32Array.of(3, 30));
  const all = new Float32Array(10);
  groupedTokens(five, 5, 5, all);
  assert.equal(all, five);
});

test('bad settings are refused before anything is read', async () => {
  await using loaded = await loadPair(pair);
  const refused = (options: unknown, ...words: string[]) =>
    assertRejects(() => evaluate(loaded, options as EvaluateOptions), 'ERR_INVALID_ARGUMENT', ...words);
  await refused({ identities: 1 }, 'identities is 1', 'from 2 to');
  await refused({ views: 1 }, 'views is 1');
  await refused({ views: 4, targets: 4 }, 'targets is 4', '1 to 3');
  await refused({ views: 4, targets: 2, inputs: 3 }, 'inputs is 3', '1 to 2');
  await refused({ maskRatio: 1 }, 'maskRatio is 1', 'below 1');
  await refused({ seed: -1 }, 'seed is -1');
  await refused({ probe: { trainPeople: 9 } }, 'probe.trainPeople is 9', 'from 10 to');
  await refused({ probe: { testPeople: 1 } }, 'probe.testPeople');
  await refused({ probe: { photos: 0 } }, 'probe.photos');
  await refused({ data: { kind: 'rendered', view: { crop: 9 } } }, 'crop is 9');
});

test('an aborted evaluation ends with the signal’s reason, wherever it is', async () => {
  await using loaded = await loadPair(pair);
  for (const stop of [
    'reading people',
    'embedding people',
    'embedding pairs',
    'rebuilding targets',
    'probing',
  ]) {
    const controller = new AbortController();
    const reason = new Error(`enough of ${stop}`);
    const error = await errorOf(() =>
      evaluate(loaded, {
        ...small,
        signal: controller.signal,
        onProgress: ({ stage }) => {
          if (stage === stop) controller.abort(reason);
        },
      }),
    );
    assert.is(error, reason);
  }
});

test('a pair that is none', async () => {
  await assertRejects(() => loadPair(scratch.at('nothing')), 'ERR_FILE', 'config.json');
  const alone = scratch.at('alone');
  await writeSmallPair(alone);
  const config = scratch.at('alone', 'mtd', 'config.json');
  write(config, JSON.stringify({ model_type: 'omni_id_mtd', image: 28 }));
  await assertRejects(
    () => loadPair(alone),
    'ERR_CONFIG',
    'masked transformer decoder',
    'image',
    'patch_size',
  );
  writeFileSync(config, '{');
  await assertRejects(() => loadPair(alone), 'ERR_CONFIG', 'not JSON');
  await using decoder = await MaskedTransformerDecoder.create({ ...smallMtd, tokenWidth: 48 });
  await decoder.save(scratch.at('alone', 'mtd'));
  await assertRejects(() => loadPair(alone), 'ERR_CONFIG', 'width 48', 'have 24');
});

test.after(() => {
  scratch.remove();
  cleanUp();
});

test.run();
