// The trainer on tiny runs: what it must give whatever it is interrupted by, split into or run on, and that it is what it says it is.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { RenderedDataset } from '../src/data/rendered_dataset.js';
import { OmniIdEncoder } from '../src/models/omni_id_encoder.js';
import { BatchLoader } from '../src/train/batch_loader.js';
import { StoredCheckpoint } from '../src/train/checkpoint_folder.js';
import type { TrainingConfig } from '../src/train/config.js';
import { FewToManySampler } from '../src/train/few_to_many.js';
import { runWeights, writeInitialWeights } from '../src/train/initial_weights.js';
import { ParameterGroups } from '../src/train/parameter_groups.js';
import { decodersOf, openEngine, samplingOf } from '../src/train/run_parts.js';
import { restoreRun } from '../src/train/run_state.js';
import { StepTensors } from '../src/train/step_data.js';
import { assertClose, assertSameBits, relativeError } from './support/assert_close.js';
import { writeClip } from './support/clip_folder.js';
import {
  assertSameRun,
  checkpointPath,
  cleanUp,
  floatsOf,
  hashes,
  logged,
  logOf,
  newRun,
  run,
  runUntil,
  tensorsOf,
  tinyConfig,
} from './support/tiny_run.js';

test.after(cleanUp);

const never = new AbortController().signal;
const photos = { identities: 6, photos: () => 5 };

/** The values of a run before its first step. */
async function initialValues(config: TrainingConfig): Promise<Map<string, Float32Array>> {
  const engine = openEngine(config, decodersOf(config));
  await writeInitialWeights(config, engine, never);
  const values = new Map(engine.layout.slots.map((slot) => [slot.name, engine.state.read('values', slot)]));
  engine.dispose();
  return values;
}

test('a run leaves checkpoints, logs, pictures, a curve and a model', async () => {
  const { folder, result, printed } = await run();
  assert.is(result.step, 12);
  assert.ok(result.finished);
  assert.is(result.skipped, 0);
  assert.is(result.stoppedBy, undefined);
  assert.equal(readdirSync(join(folder, 'checkpoints')).sort(), [6, 9, 12].map((step) => `step-${String(step).padStart(8, '0')}`)); // prettier-ignore
  assert.equal(readdirSync(join(folder, 'images')).sort(), ['step-00000006.png', 'step-00000012.png']);
  assert.equal(readdirSync(folder).sort(), ['checkpoints', 'config.json', 'curve.svg', 'held_out.json', 'images', 'log.jsonl', 'model']); // prettier-ignore
  const steps = logOf(folder, 'train').map(({ step }) => step);
  assert.equal(steps, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
  assert.equal(logOf(folder, 'held_out').map(({ step }) => step), [4, 8, 12]); // prettier-ignore
  assert.is(logged(folder, 'loss').at(-1), result.loss);
  assert.is(logged(folder, 'loss', 'held_out').at(-1), result.heldOutLoss);
  assert.match(printed, 'step 8: held-out loss');
  // Warm-up of 3 steps, then the cosine.
  assert.equal(logged(folder, 'learningRate').slice(0, 4), [1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3]);
});

test('stopped and resumed anywhere, bit for bit', async () => {
  const whole = await run();
  const folder = newRun();
  for (const [i, step] of [1, 5, 6, 11].entries()) {
    // Nor does it matter how many threads each part has.
    const { result } = await runUntil(step, [`threads=${1 + (i % 3)}`], { folder, resume: i > 0 });
    assert.equal([result.step, result.finished], [step, false]);
    // What was learned so far can be used.
    assert.ok(Object.keys(hashes(join(folder, 'model'))).length > 0);
  }
  const { result } = await run([], { folder, resume: true });
  assert.ok(result.finished);
  assertSameRun(folder, whole.folder, 12);
  assert.equal(hashes(join(folder, 'images')), hashes(join(whole.folder, 'images')));
  const stored = await StoredCheckpoint.open(checkpointPath(folder, 12));
  const expected = await StoredCheckpoint.open(checkpointPath(whole.folder, 12));
  assert.equal(stored.state, expected.state);
  assert.is(stored.heldOutLoss, expected.heldOutLoss);
  // The log has every step once.
  assert.equal(logged(folder, 'loss'), logged(whole.folder, 'loss'));
  assert.equal(logged(folder, 'loss', 'held_out'), logged(whole.folder, 'loss', 'held_out'));
});

test('a finished run that is resumed stays as it is, or goes on to more steps', async () => {
  const short = await run(['steps=6', 'optimizer.schedule=constant']);
  const before = hashes(checkpointPath(short.folder, 6));
  const again = await run(['steps=6', 'optimizer.schedule=constant'], { folder: short.folder, resume: true });
  assert.ok(again.result.finished);
  assert.equal(hashes(checkpointPath(short.folder, 6)), before);
  await run(['optimizer.schedule=constant'], { folder: short.folder, resume: true });
  assertSameRun(short.folder, (await run(['optimizer.schedule=constant'])).folder, 12);
});

test('a signal before the first step', async () => {
  const reason = new Error('not today');
  const folder = newRun();
  try {
    await run([], { folder, signal: AbortSignal.abort(reason) });
    assert.unreachable();
  } catch (error) {
    assert.is(error, reason);
  }
  assert.not.ok(readdirSync(folder).includes('train.lock'));
  assert.is((await run(['steps=1'], { folder })).result.step, 1);
});

for (const dtype of ['f32', 'bf16']) {
  test(`any number of threads, and activations kept or not: the same bits in ${dtype}`, async () => {
    const steps = ['steps=4', `dtype=${dtype}`];
    const one = await run([...steps, 'threads=1']);
    for (const other of ['threads=2', 'threads=3', 'checkpointing=true'])
      assertSameRun((await run([...steps, other])).folder, one.folder, 4);
  });
}

/** A softmax does not change when all of its scores do: the gradient by a key's bias is zero but for rounding. */
const isZero = (name: string): boolean => /\.(to_k|k_proj)\.bias$/.test(name);

test('a step split into micro-batches, within rounding', async () => {
  const settings = ['steps=3', 'sampling.identities=4', 'checkpoints.every=1', 'optimizer.clipGradNorm=null'];
  const whole = await run(settings);
  for (const parts of [2, 4]) {
    const split = await run([...settings, `accumulation=${parts}`]);
    const far = (field: string): number =>
      relativeError(
        Float32Array.from(logged(split.folder, field)),
        Float32Array.from(logged(whole.folder, field)),
      );
    assert.ok(far('loss') <= 1e-5, `losses are ${far('loss')} apart`);
    assert.ok(far('gradNorm') <= 1e-4, `norms of gradients are ${far('gradNorm')} apart`);
    // After the first step the first moments are the gradients, times 1 − β₁.
    const gradients = await tensorsOf(whole.folder, 1, 'firstMoments');
    for (const [name, actual] of await tensorsOf(split.folder, 1, 'firstMoments')) {
      const expected = gradients.get(name) ?? new Float32Array();
      if (isZero(name)) continue;
      assertClose(actual, expected, 1e-4, `gradient of ${name} in ${parts} parts`);
    }
  }
});

test('frozen weights stay as they are, and come from CLIP where the run starts from one', async () => {
  const clip = newRun();
  const tower = await writeClip(clip, tinyConfig().encoder.vision);
  // Keys and values are read as one matrix: one of them is frozen inside of it.
  const frozen = ['encoder.vision_model.*', 'encoder.cross_blocks.0.attn.to_v.weight'];
  const settings = [
    `clip="${clip}"`,
    `optimizer.frozen=${JSON.stringify(frozen)}`,
    'optimizer.weightDecay=0.5',
  ];
  const { folder } = await run(settings);
  const initial = await initialValues(tinyConfig(settings.slice(1)));
  const fixed = await tensorsOf(folder, 12, 'fixed');
  const exported = await floatsOf(join(folder, 'model/model.safetensors'));
  assert.ok(tower.size > 20);
  for (const [name, values] of tower) {
    assertSameBits(fixed.get(`encoder.${name}`) ?? new Float32Array(), values, `${name} in the checkpoint`);
    assertSameBits(exported.get(name) ?? new Float32Array(), values, `${name} in the model`);
  }
  const partial = 'cross_blocks.0.attn.to_v.weight';
  const begin = initial.get(`encoder.${partial}`) ?? new Float32Array();
  const values = await tensorsOf(folder, 12, 'values');
  assertSameBits(values.get(`encoder.${partial}`) ?? new Float32Array(), begin, partial);
  assertSameBits(exported.get(partial) ?? new Float32Array(), begin, `${partial} in the model`);
  const keys = values.get('encoder.cross_blocks.0.attn.to_k.weight') ?? new Float32Array();
  assert.ok(relativeError(keys, initial.get('encoder.cross_blocks.0.attn.to_k.weight') ?? keys) > 1e-3);
  // Resumed, they come from the checkpoint: the folder may have another model by then.
  const interrupted = newRun();
  await runUntil(5, settings, { folder: interrupted });
  await writeClip(clip, tinyConfig().encoder.vision, 2);
  await run(settings, { folder: interrupted, resume: true });
  assertSameRun(interrupted, folder, 12);
});

test('a frozen decoder passes the gradients of those that are not on', async () => {
  for (const dtype of ['f32', 'bf16']) {
    const settings = ['steps=1', `dtype=${dtype}`, 'optimizer.clipGradNorm=null'];
    const all = await tensorsOf((await run(settings)).folder, 1, 'firstMoments');
    const frozen = 'optimizer.frozen=["mtd.*","encoder.vision_model.encoder.*","encoder.self_blocks.*"]';
    const { folder } = await run([...settings, frozen]);
    const rest = await tensorsOf(folder, 1, 'firstMoments');
    assert.ok(rest.has('encoder.vision_model.embeddings.patch_embedding.weight'));
    assert.not.ok(rest.has('mtd.head.weight'));
    for (const [name, gradient] of rest)
      assertSameBits(gradient, all.get(name) ?? new Float32Array(), `gradient of ${name} in ${dtype}`);
  }
});

test('several decoders by their weights, and S drawn anew for every step', async () => {
  const settings = [
    `decoders=${JSON.stringify([
      { type: 'mtd', patchSize: 7, maskRatio: 0.8 },
      { type: 'mtd', patchSize: 14, imageSize: 56, maskRatio: 0.5, weight: 0.25 },
    ])}`,
    'sampling.inputs=[1,3]',
  ];
  const whole = await run(settings);
  const [sum, first, second] = ['loss', 'mtd', 'mtd_1'].map((field) => logged(whole.folder, field));
  for (const [i, loss] of (sum ?? []).entries()) {
    const expected = (first?.[i] ?? NaN) + 0.25 * (second?.[i] ?? NaN);
    assert.ok(Math.abs(loss - expected) <= 1e-12, `${loss} is not ${expected}`);
  }
  const sampler = new FewToManySampler(photos, samplingOf(tinyConfig(settings)));
  const drawn = new Set(Array.from({ length: 12 }, (_, step) => sampler.sample(step).inputs));
  assert.equal([...drawn].sort(), [1, 2, 3]);
  assert.equal(readdirSync(join(whole.folder, 'model')).sort(), ['config.json', 'held_out.json', 'model.safetensors', 'mtd', 'mtd_1']); // prettier-ignore
  const { image_size } = JSON.parse(readFileSync(join(whole.folder, 'model/mtd_1/config.json'), 'utf8')) as Record<string, unknown>; // prettier-ignore
  assert.is(image_size, 56);
  const folder = newRun();
  await runUntil(7, settings, { folder });
  await run(settings, { folder, resume: true });
  assertSameRun(folder, whole.folder, 12);
});

test('decoders side by side see patches of their own', async () => {
  const decoder = { type: 'mtd', patchSize: 7, maskRatio: 0.8 };
  const config = tinyConfig([`decoders=${JSON.stringify([decoder, decoder])}`]);
  const dataset = new RenderedDataset({ identities: 6, views: 5 });
  const loader = new BatchLoader(dataset, new FewToManySampler(dataset, samplingOf(config)), { size: 28, firstStep: 3 }); // prettier-ignore
  const { batch } = await loader.next();
  await loader.stop();
  const [first, second] = decodersOf(config).map((one) => one.visibleOf(batch));
  assert.equal(first, batch.visible);
  assert.is(second?.length, first?.length);
  assert.not.equal(second, first);
});

test('the exported encoder gives the tokens of the engine', async () => {
  const settings = ['optimizer.emaDecay=null', 'steps=4'];
  const config = tinyConfig(settings);
  const { folder } = await run(settings);
  const dataset = new RenderedDataset({ identities: 6, views: 5 });
  const loader = new BatchLoader(dataset, new FewToManySampler(dataset, samplingOf(config)), { size: 28, firstStep: 0 }); // prettier-ignore
  const { batch } = await loader.next();
  await loader.stop();

  const engine = openEngine(config, decodersOf(config));
  await restoreRun(
    await StoredCheckpoint.open(checkpointPath(folder, 4)),
    engine,
    runWeights(config, engine),
  );
  const sizes = { identities: 2, inputs: 2, targets: 3 };
  const tensors = new StepTensors(engine.session, config.encoder, engine.model.decoders, sizes);
  const [part] = await tensors.fill(batch, 28, 1);
  assert.ok(part);
  const place = (count: number) => ({ tensor: engine.session.tensor({ dtype: 'f32', shape: [count] }), element: 0 }); // prettier-ignore
  const shown = { tokens: place(2 * 4 * 32), 'prediction mtd': place(6 * 28 * 28 * 3) };
  await engine.run(part.shape, { gradients: 'none', update: false, show: true }, part.data, { shown });
  const expected = shown.tokens.tensor.read(0, 2 * 4 * 32) as Float32Array;

  const encoder = await OmniIdEncoder.load(join(folder, 'model'), { dtype: 'f32' });
  const photo = (i: number) => ({ data: batch.inputs.slice(i * 28 * 28 * 3, (i + 1) * 28 * 28 * 3), width: 28, height: 28, channels: 3 as const }); // prettier-ignore
  const { data } = await encoder.embed([
    [photo(0), photo(1)],
    [photo(2), photo(3)],
  ]);
  assertClose(data, expected, 1e-5, 'tokens');
  encoder.dispose();
  tensors.dispose();
  for (const { tensor } of Object.values(shown)) tensor.dispose();
  engine.dispose();
});

test('each step is AdamW by its schedule, its rates and its groups, and the average follows', async () => {
  const settings = [
    'steps=6',
    'checkpoints.every=1',
    'checkpoints.keepLast=100',
    'optimizer.weightDecay=0.5',
    'optimizer.learningRate=0.02',
    'optimizer.backboneLearningRate=0.005',
    'optimizer.minLearningRateRatio=0.1',
    // Less in the first two steps.
    'optimizer.emaDecay=0.28',
  ];
  const config = tinyConfig(settings);
  const { folder } = await run(settings);
  const { betas, epsilon, emaDecay } = config.optimizer;
  // Three steps of warm-up, then half a cosine down to a tenth.
  const rates = [1 / 3, 2 / 3, 1, 1, 0.55, 0.1].map((share) => 0.02 * share);
  const groups = new ParameterGroups(config.optimizer);
  let before = await initialValues(config);
  let average = before;
  const seen = new Set<string>();
  for (const [i, rate] of rates.entries()) {
    const t = i + 1;
    const [values, m, v, followed] = await Promise.all(
      ['values', 'firstMoments', 'secondMoments', 'average'].map((group) => tensorsOf(folder, t, group)),
    );
    for (const [name, now] of values ?? []) {
      const old = before.get(name) ?? new Float32Array();
      // Names tell the shapes' roles here: what decays are weights of products and embeddings.
      const decays = /(_proj|to_q|to_k|to_v|to_out|fc1|fc2|patch_embed(ding)?|head)\.weight$/.test(name);
      assert.is(groups.role(name, decays ? [2, 2] : [2]).decay, decays, name);
      const backbone = name.startsWith('encoder.vision_model.');
      seen.add(`${decays} ${backbone}`);
      const its = rate * (backbone ? 0.25 : 1);
      const moments = [m, v].map((group) => group?.get(name) ?? new Float32Array());
      const expected = old.map((value, at) => {
        const [first = NaN, second = NaN] = moments.map((moment) => moment[at]);
        const direction = first / (1 - betas[0] ** t) / (Math.sqrt(second / (1 - betas[1] ** t)) + epsilon);
        return value * (1 - its * (decays ? 0.5 : 0)) - its * direction;
      });
      assertClose(now, expected, 1e-5, `${name} after step ${t}`);
      const decay = Math.min(emaDecay ?? NaN, (1 + t) / (10 + t));
      const mean = (average.get(name) ?? old).map(
        (value, at) => decay * value + (1 - decay) * (now[at] ?? NaN),
      );
      assertClose(
        followed?.get(name) ?? new Float32Array(),
        mean,
        1e-6,
        `average of ${name} after step ${t}`,
      );
    }
    before = values ?? before;
    average = followed ?? average;
  }
  assert.is(seen.size, 4);
});

test('training finds its way to the photos of a few people', async () => {
  const { folder } = await run([
    'steps=60',
    'data.identities=2',
    'data.views=3',
    'data.heldOut.identities=0',
    'optimizer.learningRate=3e-3',
    'optimizer.warmupSteps=5',
    'log.evaluateEvery=null',
    'checkpoints.every=60',
  ]);
  const losses = logged(folder, 'loss');
  const mean = (values: readonly number[]): number => values.reduce((sum, x) => sum + x, 0) / values.length;
  const [first, last] = [mean(losses.slice(0, 3)), mean(losses.slice(-5))];
  assert.ok(last < 0.6 * first, `the loss went from ${first} to ${last}`);
});

test.run();
