// Losses, gradients and parameters that are not finite: such a step changes nothing, and no such value is ever saved.
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { latestCheckpoint, Checkpoints } from '../src/train/checkpoints.js';
import { assertRejects } from './support/errors.js';
import { checkpointPath, cleanUp, hashes, logOf, newRun, run, tensorsOf } from './support/tiny_run.js';

test.after(cleanUp);

const groups = ['values', 'firstMoments', 'secondMoments', 'average'] as const;

/** Makes a run whose last checkpoint has this value in every element of a parameter. */
async function withValue(name: string, value: number, settings: readonly string[] = []): Promise<string> {
  const { folder } = await run(['steps=3', ...settings]);
  const stored = await latestCheckpoint(folder);
  assert.ok(stored);
  const { step, state } = stored;
  const tensors: Record<string, { name: string; shape: readonly number[]; read(first: number, count: number): Float32Array }[]> = {}; // prettier-ignore
  for (const group of stored.groups) {
    const shapes = await stored.tensors(group);
    tensors[group] = [...(await tensorsOf(folder, step, group))].map(([tensor, data]) => {
      if (tensor === name && group === 'values') data.fill(value);
      const shape = shapes.get(tensor)?.shape ?? [];
      return { name: tensor, shape, read: (first, count) => data.slice(first, first + count) };
    });
  }
  await using checkpoints = await Checkpoints.open(folder, { keepLast: 3, best: false });
  await checkpoints.save({ step, state, tensors });
  return folder;
}

const large = 3.4e38;
const cases: [what: string, parameter: string, value: number, ...settings: string[]][] = [
  // |prediction − target| overflows; its gradient, ±1, does not.
  ['an infinite loss with finite gradients', 'mtd.head.bias', large],
  ['the same in the first of two micro-batches', 'mtd.head.bias', large, 'accumulation=2'],
  ['an infinite loss and gradients that are none', 'mtd.head.weight', large],
  ['an overflow in the tower', 'encoder.vision_model.encoder.layers.0.mlp.fc1.weight', large],
  ['the same in bf16', 'encoder.vision_model.encoder.layers.0.mlp.fc1.weight', large, 'dtype=bf16'],
];

for (const [what, parameter, value, ...settings] of cases) {
  test(`${what}: steps are skipped and counted, and change nothing`, async () => {
    const folder = await withValue(parameter, value, settings);
    const before = hashes(checkpointPath(folder, 3));
    const options = ['log.evaluateEvery=null', 'log.imagesEvery=null', 'maxSkippedSteps=2', 'checkpoints.every=1', ...settings]; // prettier-ignore
    const error = await assertRejects(
      () => run(options, { folder, resume: true }),
      'ERR_NOT_FINITE',
      'not finite in 3 steps in a row',
      'at step 6',
      'at most 2 are skipped (maxSkippedSteps)',
    );
    assert.match(error.message, /loss (NaN|Infinity)/);
    assert.equal(
      logOf(folder, 'skipped').map(({ step }) => step),
      [4, 5, 6],
    );
    // Two skipped steps were saved: with the same tensors.
    const stored = await latestCheckpoint(folder);
    assert.is(stored?.step, 5);
    assert.equal(stored?.state && (stored.state as { updates: number; skipped: number }).updates, 3);
    assert.is((stored?.state as { skipped: number }).skipped, 2);
    // Nor are they forgotten: the next one is the third in a row, whenever the run goes on.
    await assertRejects(() => run(options, { folder, resume: true }), 'ERR_NOT_FINITE', 'not finite in 3 steps in a row', 'at step 6'); // prettier-ignore
    for (const group of groups) {
      const file = `${group}.safetensors`;
      assert.is(hashes(checkpointPath(folder, 5))[file], before[file], file);
    }
    assert.not.ok(readdirSync(folder).includes('train.lock'));
  });
}

test('a run whose last steps are skipped ends, and says so', async () => {
  const folder = await withValue('mtd.head.bias', large);
  const finite = ['log.evaluateEvery=null', 'log.imagesEvery=null', 'steps=5', 'checkpoints.every=1'];
  const { result, printed } = await run(finite, { folder, resume: true });
  assert.equal([result.step, result.finished, result.skipped], [5, true, 2]);
  assert.ok(Number.isNaN(result.loss));
  assert.match(printed, 'step 4 is skipped: loss Infinity');
});

test('a learning rate that throws everything away', async () => {
  // Parameters of 1e30 are finite, what is made of them is not.
  const folder = newRun();
  const settings = ['optimizer.warmupSteps=0', 'optimizer.schedule=constant', 'checkpoints.every=1', 'maxSkippedSteps=1', 'log.evaluateEvery=null']; // prettier-ignore
  await assertRejects(
    () => run([...settings, 'optimizer.learningRate=1e30'], { folder }),
    'ERR_NOT_FINITE',
    '2 steps in a row',
  );
  const stored = await latestCheckpoint(folder);
  assert.ok(stored && stored.step >= 1);

  // Parameters that overflow themselves are not saved.
  const other = newRun();
  await assertRejects(
    () => run([...settings, 'optimizer.learningRate=1e38'], { folder: other }),
    'ERR_NOT_FINITE',
    'after step 1: no checkpoint is written of it',
  );
  assert.is(await latestCheckpoint(other), undefined);
  assert.equal(readdirSync(join(other, 'checkpoints')), []);
  assert.not.ok(readdirSync(other).includes('model'));
});

test.run();
