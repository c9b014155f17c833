// `omni-id reconstruct` and `omni-id evaluate` as a shell meets them.
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { EvaluationReport } from '../src/eval/evaluate.js';
import { at, assertEnded, cleanUp, fail, omniId, succeed } from './support/cli.js';
import { writePeople } from './support/people.js';
import { writeSmallPair } from './support/small_pair.js';

const root = join(import.meta.dirname, '..');
const photo = (view: number): string => join(root, `examples/photos/rendered-1/view-${view}.png`);
const pair = at('pair');
const inputs = ['--inputs', photo(1), photo(2), photo(3)];
const rebuild = (...options: string[]): string[] => ['reconstruct', '--weights', pair, ...inputs, '--target', photo(4), ...options]; // prettier-ignore
const tiny = ['--identities', '3', '--views', '4', '--probe-people', '12', '--probe-test', '4', '--probe-photos', '1']; // prettier-ignore
const judge = (...options: string[]): string[] => ['evaluate', '--weights', pair, ...options];

test.before(async () => {
  mkdirSync(at('.'), { recursive: true });
  await writeSmallPair(pair);
});

test('reconstruct: a picture of inputs, masked target, reconstruction and target', async () => {
  const out = at('grid.png');
  const result = JSON.parse(await succeed(...rebuild('--out', out, '--mask-ratio', '0.75', '--seed', '4', '--json'))) as Record<string, unknown> & { visible: number[]; loss: number }; // prettier-ignore
  assert.equal(
    [result['patches'], result.visible.length, result['maskRatio'], result['seed']],
    [16, 4, 0.75, 4],
  );
  assert.ok(result.loss > 0);
  const { data, info } = await sharp(out).raw().toBuffer({ resolveWithObject: true });
  assert.equal([info.width, info.height, info.channels], [result['width'], result['height'], 3]);
  // The last row is the target as the decoder has it: 28 pixels wide, at the grid's margins.
  const target = await sharp(photo(4)).resize(28, 28, { kernel: 'cubic' }).removeAlpha().raw().toBuffer();
  let difference = 0;
  const [left, top] = [112 + 4, info.height - 4 - 4 - 28];
  for (let y = 0; y < 28; y++)
    for (let i = 0; i < 84; i++)
      difference += Math.abs(
        (data[((top + y) * info.width + left) * 3 + i] ?? 0) - (target[y * 84 + i] ?? 0),
      );
  assert.ok(difference / (28 * 84) < 4, `the target differs by ${difference / (28 * 84)}`);
  // Other seeds, other patches; the same one, the same picture.
  const again = await succeed(...rebuild('--out', at('again.png'), '--mask-ratio', '0.75', '--seed', '4'));
  assert.match(again, '4 of 16 patches were visible');
  assert.equal(await sharp(at('again.png')).raw().toBuffer(), data);
});

test('reconstruct: a folder of inputs is the photos in it but the target, and but those that cannot be read', async () => {
  const folder = at('with-target');
  cpSync(join(root, 'examples/photos/rendered-1'), folder, { recursive: true });
  const target = join(folder, 'view-4.png');
  const options = ['--target', target, '--out', at('folder.png'), '--json'];
  const rebuilt = async (exit: number, ...given: string[]) => {
    const ended = await omniId(['reconstruct', '--weights', pair, '--inputs', ...given, ...options]);
    assertEnded(ended, exit);
    const result = JSON.parse(ended.stdout) as { inputs: string[]; loss: number; failed: { photo: string; code: string }[] }; // prettier-ignore
    return { ...result, stderr: ended.stderr };
  };
  const others = [1, 2, 3].map((view) => join(folder, `view-${view}.png`));
  const whole = await rebuilt(0, folder);
  assert.equal([whole.inputs, whole.failed], [others, []]);
  symlinkSync(folder, at('linked'));
  assert.equal(
    (await rebuilt(0, at('linked'))).inputs,
    [1, 2, 3].map((view) => at('linked', `view-${view}.png`)),
  );
  const listed = await rebuilt(0, ...others);
  assert.is(listed.loss, whole.loss);
  // Who names it means it.
  const named = await rebuilt(0, ...others, target);
  assert.match(named.stderr, 'the target is one of the inputs');
  writeFileSync(join(folder, 'broken.png'), 'not a photo');
  const partly = await rebuilt(1, folder);
  assert.is(partly.loss, whole.loss);
  assert.equal(partly.inputs, others);
  assert.equal(partly.failed.map(({ photo: path, code }) => [path, code]), [[join(folder, 'broken.png'), 'ERR_IMAGE_UNREADABLE']]); // prettier-ignore
  assert.match(partly.stderr, /left out: photo \d of identity 0 \(.*broken\.png\)/);
});

test('reconstruct: what is wrong is told before or instead of a picture', async () => {
  const out = at('none.png');
  const usage = { exit: 2, code: 'ERR_INVALID_ARGUMENT' };
  await fail(rebuild(), { ...usage, words: ['--out'] });
  await fail(rebuild('--out', at('x.jpg')), { ...usage, words: ['.png'] });
  await fail(rebuild('--out', at('no', 'x.png')), { exit: 1, code: 'ERR_FILE', words: ['--out'] });
  for (const ratio of ['0', '1', 'half']) await fail(rebuild('--out', out, `--mask-ratio=${ratio}`), { ...usage, words: ['--mask-ratio', 'above 0 and below 1'] }); // prettier-ignore
  await fail(['reconstruct', '--weights', at('nothing'), ...inputs, '--target', photo(4), '--out', out], { exit: 1, code: 'ERR_FILE', words: ['config.json'] }); // prettier-ignore
  await fail(['reconstruct', '--weights', pair, '--inputs', 'no-such.png', '--target', photo(4), '--out', out], { exit: 1, code: 'ERR_IMAGE_NOT_FOUND', words: ['no-such.png'] }); // prettier-ignore
  await fail(['reconstruct', '--weights', pair, ...inputs, '--target', 'gone.png', '--out', out], { exit: 1, code: 'ERR_IMAGE_NOT_FOUND', words: ['gone.png'] }); // prettier-ignore
  await fail(['reconstruct', '--weights', pair, ...inputs, '--target', root, '--out', out], { ...usage, words: [`--target ${root}`, 'a folder', 'expected one photo'] }); // prettier-ignore
  await fail(['reconstruct', '--weights', pair, '--inputs', join(root, 'src/cli'), '--target', photo(4), '--out', out], { ...usage, words: ['no photos in'] }); // prettier-ignore
  await fail(['reconstruct', '--weights', pair, '--inputs', join(root, 'examples/photos'), '--target', photo(4), '--out', out], { ...usage, words: ['folders, as those of several people do'] }); // prettier-ignore
  cpSync(photo(1), at('kept.png'));
  for (const role of [['--inputs', at('kept.png'), '--target', photo(4)], ['--inputs', photo(2), '--target', at('kept.png')]])
    await fail(['reconstruct', '--weights', pair, ...role, '--out', at('kept.png')], { ...usage, words: ['which is read'] }); // prettier-ignore
  assert.equal(readFileSync(at('kept.png')), readFileSync(photo(1)));
  mkdirSync(at('single'));
  cpSync(photo(4), at('single/4.png'));
  await fail(['reconstruct', '--weights', pair, '--inputs', at('single'), '--target', at('single/4.png'), '--out', out], { ...usage, words: ['no photo but the target'] }); // prettier-ignore
  // An encoder without a decoder, as `init` makes it.
  cpSync(pair, at('encoder'), { recursive: true });
  rmSync(at('encoder', 'mtd'), { recursive: true });
  await fail(['evaluate', '--weights', at('encoder')], { exit: 1, code: 'ERR_FILE', words: ['no masked transformer decoder', 'mtd'] }); // prettier-ignore
  // Weights that do not fit the config, and ones that are cut off.
  cpSync(pair, at('damaged'), { recursive: true });
  cpSync(join(pair, 'model.safetensors'), at('damaged', 'mtd', 'model.safetensors'));
  await fail(['evaluate', '--weights', at('damaged')], { exit: 1, code: 'ERR_WEIGHTS', words: ['mask_token', 'queries'] }); // prettier-ignore
  writeFileSync(at('damaged', 'mtd', 'model.safetensors'), 'short');
  await fail(['evaluate', '--weights', at('damaged')], {
    exit: 1,
    code: 'ERR_FORMAT',
    words: ['model.safetensors'],
  });
  assert.not(existsSync(out));
});

test('evaluate: a table for people, JSON for programs', async () => {
  const report = JSON.parse(await succeed(...judge(...tiny, '--json'))) as EvaluationReport & { info: { dtype: string } }; // prettier-ignore
  assert.equal([report.people, report.targets, report.inputs, report.maskRatio], [3, 6, 2, 0.9]);
  assert.equal([report.probe?.trainPeople, report.probe?.testPeople, report.probe?.photos], [12, 4, 1]);
  assert.is(report.info.dtype, 'bf16');
  const table = await succeed(...judge(...tiny));
  for (const words of [
    '3 people',
    'the right person (2 photos)',
    'another person',
    'the mean of all',
    'equal colouring, other shape',
    'equal shape, other colouring',
    'from 1 photo',
    'trained, all tokens',
    'untrained, mean of tokens',
    report.reconstruction.right.loss.mean.toFixed(4),
  ])
    // prettier-ignore
    assert.ok(table.includes(words), `${words} in ${table}`);
});

test('evaluate: rendered people in other views than training had', async () => {
  const dataOf = async (...options: string[]): Promise<string> => {
    const text = await succeed(...judge(...tiny, '--no-probe', '--json', ...options));
    return (JSON.parse(text) as EvaluationReport).data;
  };
  const people = 'rendered 900000 to 900002, 4 views';
  assert.is(await dataOf(), people);
  assert.is(
    await dataOf('--pose-spread', '.5', '--jitter', '--crop', '1.5'),
    `${people}, crop 1.5, poseSpread 0.5, jitter true`,
  );
  assert.is(await dataOf('--no-jitter'), `${people}, jitter false`);
});

test('evaluate: data on disk has no pairs and no probe', async () => {
  await writePeople(at('people'), { anna: 4, ben: 4, carl: 1 }, 28);
  const text = await succeed(...judge('--data', at('people'), '--views', '4', '--json'));
  const report = JSON.parse(text) as EvaluationReport;
  assert.equal([report.people, report.tooFewPhotos, report.maskedTargets < report.targets], [2, 1, true]);
  assert.not('probe' in report);
  assert.not('sameColouringOtherShape' in report.reconstruction);
  const table = await succeed(...judge('--data', at('people'), '--views', '4'));
  assert.not.match(table, 'probe');
  assert.not.match(table, 'equal shape');
  assert.match(table, 'left out for lack of photos: 1 person');
  assert.match(table, 'without a mask');
  await fail(judge('--data', at('people'), '--views', '5'), { exit: 1, code: 'ERR_DATASET', words: ['0 people', 'at least 2'] }); // prettier-ignore
  await fail(judge('--data', at('people'), '--crop', '2'), { exit: 2, code: 'ERR_INVALID_ARGUMENT', words: ['--crop', 'without --data'] }); // prettier-ignore
  await fail(judge('--data', at('people'), '--no-jitter'), { exit: 2, code: 'ERR_INVALID_ARGUMENT', words: ['jitter', 'without --data'] }); // prettier-ignore
  await fail(judge('--data', at('people'), '--pose-spread', '1'), { exit: 2, code: 'ERR_INVALID_ARGUMENT', words: ['--pose-spread', 'without --data'] }); // prettier-ignore
  await fail(judge('--data', at('gone')), { exit: 1, code: 'ERR_FILE', words: ['gone'] });
});

test('evaluate: bad numbers', async () => {
  const usage = { exit: 2, code: 'ERR_INVALID_ARGUMENT' };
  await fail(['evaluate'], { ...usage, words: ['--weights'] });
  await fail(judge('--identities', '1'), {
    ...usage,
    words: ['--identities is 1, expected a whole number from 2'],
  });
  await fail(judge('--mask-ratio', '1'), { ...usage, words: ['above 0 and below 1'] });
  await fail(judge('--views', '4', '--targets', '4'), {
    ...usage,
    words: ['--targets is 4, expected a whole number from 1 to 3'],
  });
  await fail(judge('--identities', '1000000000'), { ...usage, words: ['--identities is 1000000000', 'in memory'] }); // prettier-ignore
  // Not twice, as `fail` does: what is available changes in between.
  for (const [options, who] of [
    [['--identities', '9000000', '--views', '2000'], '9000000 people'],
    [['--probe-people', '1000000000'], 'the probe'],
  ] as const) {
    const ended = await omniId(judge(...options, '--json'));
    assertEnded(ended, 1);
    const { error } = JSON.parse(ended.stdout) as { error: { code: string; message: string } };
    assert.is(error.code, 'ERR_OUT_OF_MEMORY');
    for (const words of [who, 'available are']) assert.ok(error.message.includes(words), error.message);
  }
  await fail(judge('--pose-spread', '3'), { ...usage, words: ['--pose-spread', 'a number from 0 to 2'] });
  await fail(judge('--crop', '7'), { ...usage, words: ['--crop', 'a number from 0.25 to 4'] });
  await fail(judge('--probe-people', '3'), { ...usage, words: ['--probe-people is 3', 'from 10'] });
  await fail(judge('--views', 'many'), { ...usage, words: ['--views', 'expected a number'] });
});

test('evaluate: people that may have been trained on, and Ctrl-C', async () => {
  const warned = await omniId(judge(...tiny, '--no-probe', '--first-seed', '5', '--json'));
  assertEnded(warned, 0);
  assert.match(warned.stderr, 'may have been trained on');
  assert.not('probe' in (JSON.parse(warned.stdout) as object));
  const stopped = await omniId(judge('--identities', '5000', '--first-seed', '5', '--json'), {
    onStart: (child) => {
      // The warning comes when the work begins, however long that takes.
      child.stderr?.once('data', () => child.kill('SIGINT'));
    },
  });
  assertEnded(stopped, 130);
  assert.is((JSON.parse(stopped.stdout) as { error: { code: string } }).error.code, 'ERR_INTERRUPTED');
});

test.after(cleanUp);

test.run();
