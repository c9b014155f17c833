// The model of one of a run's checkpoints.
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { exportCheckpoint } from '../src/train/export_checkpoint.js';
import { assertRejects } from './support/errors.js';
import { at, cleanUp, fail, succeed } from './support/cli.js';
import { cleanUp as cleanUpRuns, newRun, run, runUntil } from './support/tiny_run.js';

test.after(() => {
  cleanUp();
  cleanUpRuns();
});

const files = [
  'config.json',
  'held_out.json',
  'model.safetensors',
  'mtd/config.json',
  'mtd/model.safetensors',
];

function assertSameModel(a: string, b: string): void {
  assert.equal(readdirSync(a).sort(), readdirSync(b).sort());
  for (const file of files)
    assert.ok(readFileSync(join(a, file)).equals(readFileSync(join(b, file))), `${file} of ${a} and ${b}`);
}

const everyThird = ['log.evaluateEvery=3', 'checkpoints.keepLast=9'];

for (const settings of [
  everyThird,
  [...everyThird, 'optimizer.emaDecay=null', 'optimizer.frozen=["encoder.vision_model.*"]'],
]) {
  test(`the model of any checkpoint is the one that a run ending there writes: ${settings.join(' ')}`, async () => {
    const { folder, result } = await run(settings);
    const last = await exportCheckpoint({ runFolder: folder, folder: at('latest') });
    assert.is(last.step, result.step);
    assertSameModel(at('latest'), join(folder, 'model'));

    const stopped = await runUntil(6, settings);
    const sixth = await exportCheckpoint({ runFolder: folder, folder: at('sixth'), checkpoint: 6 });
    assert.is(sixth.step, 6);
    assertSameModel(at('sixth'), join(stopped.folder, 'model'));

    const losses = new Map<number, number>();
    for (const step of readdirSync(join(folder, 'checkpoints')).map((name) =>
      Number(name.slice('step-'.length)),
    )) {
      const { heldOutLoss } = await exportCheckpoint({
        runFolder: folder,
        folder: at('any'),
        checkpoint: step,
      });
      if (heldOutLoss !== undefined) losses.set(step, heldOutLoss);
    }
    assert.ok(losses.size >= 3, `${losses.size} losses`);
    const best = await exportCheckpoint({ runFolder: folder, folder: at('best'), checkpoint: 'best' });
    assert.is(best.heldOutLoss, Math.min(...losses.values()));
    assert.is(losses.get(best.step), best.heldOutLoss);
  });
}

test('on the command line', async () => {
  const { folder } = await run(everyThird);
  const told = JSON.parse(await succeed('export', folder, '--checkpoint', 'best', '--out', at('told'), '--json')) as object; // prettier-ignore
  const best = await exportCheckpoint({ runFolder: folder, folder: at('again'), checkpoint: 'best' });
  assert.equal(told, { folder: at('told'), ...best });
  assertSameModel(at('told'), at('again'));
  await fail(['export', folder, '--out', at('told')], {
    exit: 1,
    code: 'ERR_FILE',
    words: ['--force replaces it'],
  });
  assert.match(await succeed('export', folder, '--out', at('told'), '--force'), 'the model of step');
  await fail(['export', folder, '--checkpoint', 'last', '--out', at('x')], { exit: 2, code: 'ERR_INVALID_ARGUMENT', words: ['latest, best or a step'] }); // prettier-ignore
});

test('what there is not, and what is damaged', async () => {
  const { folder } = await run(['log.evaluateEvery=null']);
  const to = at('nothing');
  const refused = (checkpoint: unknown, code: string, ...words: string[]) =>
    assertRejects(() => exportCheckpoint({ runFolder: folder, folder: to, checkpoint: checkpoint as 'best' }), code, ...words); // prettier-ignore
  await refused('best', 'ERR_FILE', 'no checkpoint with a held-out loss', 'there are those of steps');
  await refused(2, 'ERR_FILE', 'no checkpoint of step 2: ', 'there are those of steps');
  await refused('first', 'ERR_INVALID_ARGUMENT', '"first"', '"latest", "best" or a step');
  await refused(-1, 'ERR_INVALID_ARGUMENT', '-1', '"latest", "best" or a step');
  const nowhere = newRun();
  await assertRejects(() => exportCheckpoint({ runFolder: nowhere, folder: to }), 'ERR_FILE', `${nowhere} is not there`); // prettier-ignore
  mkdirSync(nowhere);
  await assertRejects(() => exportCheckpoint({ runFolder: nowhere, folder: to }), 'ERR_FILE', `${nowhere} holds no run`); // prettier-ignore
  mkdirSync(join(nowhere, 'checkpoints'));
  await assertRejects(() => exportCheckpoint({ runFolder: nowhere, folder: to }), 'ERR_FILE', `${nowhere} has no checkpoint yet`); // prettier-ignore
  await assertRejects(() => exportCheckpoint({ runFolder: folder, folder }), 'ERR_FILE', 'is the folder of a run'); // prettier-ignore
  const photos = at('photos');
  mkdirSync(join(photos, 'ann'), { recursive: true });
  await assertRejects(() => exportCheckpoint({ runFolder: folder, folder: photos }), 'ERR_FILE', `${photos} holds ann and no model`); // prettier-ignore
  assert.equal(readdirSync(photos), ['ann']);
  // What was broken off is done again, and leaves nothing behind.
  const broken = at('broken');
  mkdirSync(broken);
  for (const name of ['held_out.json', '.model.safetensors.1.0123456789ab.tmp'])
    writeFileSync(join(broken, name), '{}');
  await exportCheckpoint({ runFolder: folder, folder: broken });
  assert.equal(readdirSync(broken).sort(), ['config.json', 'held_out.json', 'model.safetensors', 'mtd']);
  const other = at('other');
  await exportCheckpoint({ runFolder: folder, folder: other });
  renameSync(join(other, 'mtd'), join(other, 'mtd_1'));
  await assertRejects(() => exportCheckpoint({ runFolder: folder, folder: other }), 'ERR_FILE', 'mtd_1 is a decoder of another model'); // prettier-ignore
  const [before, newest] = readdirSync(join(folder, 'checkpoints')).sort().slice(-2);
  truncateSync(join(folder, 'checkpoints', newest ?? '', 'values.safetensors'), 5000);
  const told = await exportCheckpoint({ runFolder: folder, folder: to });
  assert.is(told.step, Number(before?.slice('step-'.length)));
  assert.equal(told.damaged.map(({ folder: of }) => of), [join(folder, 'checkpoints', newest ?? '')]); // prettier-ignore
  assert.match(told.damaged[0]?.message ?? '', 'values.safetensors has 5000 bytes');
  await refused(Number(newest?.slice('step-'.length)), 'ERR_FORMAT', 'values.safetensors has 5000 bytes');
  rmSync(to, { recursive: true });
  for (const name of readdirSync(join(folder, 'checkpoints')))
    truncateSync(join(folder, 'checkpoints', name, 'average.safetensors'), 5000);
  await refused('latest', 'ERR_FORMAT', 'average.safetensors has 5000 bytes');
  assert.not.ok(existsSync(to));
});

test.run();
