// `omni-id dataset render` as a shell meets it: a data set on disk, gone on with after an interruption.
import {
  existsSync,
  mkdtempSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { rendererVersion } from '../src/data/rendered.js';
import { renderFace } from '../src/index.js';
import { assertEnded, fail, omniId, succeed } from './support/cli.js';

const scratch = mkdtempSync(join(tmpdir(), 'omni-id-render-'));
const at = (...names: string[]): string => join(scratch, ...names);
const render = (out: string, ...options: string[]): string[] =>
  ['dataset', 'render', '--out', out, '--size', '48', ...options]; // prettier-ignore

interface Labels {
  readonly photo: string;
  readonly seed: number;
  readonly view: number;
  readonly pose: Record<string, number>;
  readonly landmarks: readonly number[];
  readonly identityCoefficients: readonly number[];
  readonly expressionCoefficients: readonly number[];
}

const labelsOf = (...folder: string[]): Labels[] =>
  readFileSync(at(...folder, 'labels.jsonl'), 'utf8').trim().split('\n').map((line) => JSON.parse(line) as Labels); // prettier-ignore

test('views that are chosen instead of drawn', async () => {
  const options = [
    '--identities',
    '1',
    '--views',
    '1',
    '--pose-spread',
    '0.5',
    '--no-jitter',
    '--crop',
    '1.2',
  ];
  await succeed(...render(at('chosen'), ...options));
  const expected = await renderFace({
    identity: 0,
    view: 0,
    size: 48,
    poseSpread: 0.5,
    jitter: false,
    crop: 1.2,
  });
  const image = await sharp(at('chosen', '0', '000.png'))
    .raw()
    .toBuffer();
  assert.equal(new Uint8Array(image), expected.pixels);
  // Other views do not go into the same folder.
  await fail(render(at('chosen'), '--identities', '1', '--views', '1'), { exit: 2, code: 'ERR_INVALID_ARGUMENT', words: ['other options', 'poseSpread'] }); // prettier-ignore
});

test('photos, masks and labels', async () => {
  const options = ['--identities', '3', '--views', '2', '--first-seed', '900000', '--first-view', '5'];
  const result = JSON.parse(await succeed(...render(at('set'), ...options, '--json'))) as { photos: number };
  assert.is(result.photos, 6);
  assert.match(await succeed(...render(at('one'), '--identities', '1', '--views', '1')), ': 1 photo of 1 person, seeds'); // prettier-ignore
  assert.equal(readdirSync(at('set')).sort(), ['900000', '900001', '900002', 'rendered.json']);
  assert.equal(readdirSync(at('set', '900001')).sort(), ['000.mask.png', '000.png', '001.mask.png', '001.png', 'labels.jsonl']); // prettier-ignore
  const [, second] = labelsOf('set', '900001');
  assert.equal([second?.photo, second?.seed, second?.view], ['001.png', 900001, 6]);
  const expected = await renderFace({ identity: 900001, view: 6, size: 48 });
  const image = await sharp(at('set', '900001', '001.png'))
    .raw()
    .toBuffer({ resolveWithObject: true });
  assert.is(image.info.channels, 3);
  assert.equal(new Uint8Array(image.data), expected.pixels);
  const grey = sharp(at('set', '900001', '001.mask.png'));
  assert.is((await grey.metadata()).channels, 1);
  const mask = await grey.toColourspace('b-w').raw().toBuffer();
  assert.equal(new Uint8Array(mask), expected.mask);
  for (const field of ['landmarks', 'identityCoefficients', 'expressionCoefficients'] as const) {
    const written = second?.[field] ?? [];
    assert.is(written.length, expected[field].length, field);
    for (const [i, value] of expected[field].entries())
      assert.ok(Math.abs(value - (written[i] ?? NaN)) <= 6e-5, `${field} ${i}`);
  }
});

test('more people are added to a folder, of the same kind only', async () => {
  await succeed(...render(at('more'), '--identities', '2', '--views', '1'));
  const before = readFileSync(at('more', '1', '000.png'));
  const output = await succeed(...render(at('more'), '--identities', '4', '--views', '1'));
  assert.match(output, '2 photos of 2 people');
  assert.match(output, 'besides 2 people already there');
  assert.equal(readFileSync(at('more', '1', '000.png')), before);
  assert.equal(readdirSync(at('more')).sort(), ['0', '1', '2', '3', 'rendered.json']);
  await fail(render(at('more'), '--identities', '4', '--views', '2'), { exit: 2, code: 'ERR_INVALID_ARGUMENT', words: ['other options', '"views": 2'] }); // prettier-ignore
});

test('a folder that another version of the renderer drew is not gone on with', async () => {
  const options = render(at('older'), '--identities', '1', '--views', '1');
  await succeed(...options);
  const path = at('older', 'rendered.json');
  const record = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  assert.is(record['rendererVersion'], rendererVersion);
  const usage = { exit: 2, code: 'ERR_INVALID_ARGUMENT' };
  for (const [version, words] of [
    [rendererVersion + 1, `version ${rendererVersion + 1} of the renderer`],
    [undefined, 'an unknown version of the renderer'],
  ] as const) {
    writeFileSync(path, JSON.stringify({ ...record, rendererVersion: version }));
    await fail(options, { ...usage, words: [words, `expected version ${rendererVersion}`] });
  }
});

test('Ctrl-C leaves whole people only, and the next run goes on', async () => {
  const options = render(at('stopped'), '--identities', '400', '--views', '3', '--encoding', 'jpg');
  const ended = await omniId(options, {
    onStart: (child) => {
      const timer = setInterval(() => {
        const there = existsSync(at('stopped')) ? readdirSync(at('stopped')).length : 0;
        if (there <= 4) return;
        clearInterval(timer); // a second signal would end it at once
        child.kill('SIGINT');
      }, 10);
      child.on('close', () => {
        clearInterval(timer);
      });
    },
  });
  assertEnded(ended, 130);
  const people = readdirSync(at('stopped')).filter((name) => name !== 'rendered.json');
  assert.ok(people.length > 0 && people.length < 400, `${people.length} people`);
  for (const person of people) {
    assert.match(person, /^\d+$/);
    assert.is(readdirSync(at('stopped', person)).length, 7);
    assert.is(labelsOf('stopped', person).length, 3);
  }
  const enough = people.length + 1;
  await succeed(
    ...render(at('stopped'), '--identities', String(enough), '--views', '3', '--encoding', 'jpg'),
  );
  assert.is(readdirSync(at('stopped')).length, enough + 1);
});

test('what cannot be written', async () => {
  mkdirSync(at('other'));
  writeFileSync(at('other', 'notes.txt'), 'mine');
  const usage = { exit: 2, code: 'ERR_INVALID_ARGUMENT' };
  await fail(render(at('other')), { ...usage, words: ['not empty', 'other'] });
  await fail(render(at('other', 'notes.txt')), { exit: 1, code: 'ERR_FILE', words: ['notes.txt'] });
  await fail(render(at('none'), '--identities', '0'), { ...usage, words: ['--identities', 'from 1 to'] });
  await fail(render(at('none'), '--size', '0'), { ...usage, words: ['--size', 'from 1 to 2048'] });
  await fail(render(at('none'), '--identities', '1000000000'), { ...usage, words: ['--identities', "'1000000000'", 'from 1 to 10000000', 'in memory'] }); // prettier-ignore
  await fail(render(at('none'), '--views', '1000000000'), { ...usage, words: ['--views', "'1000000000'", 'from 1 to 100000'] }); // prettier-ignore
  await fail(render(at('none'), '--identities', '200001', '--views', '10', '--format', 'shards'), { exit: 1, code: 'ERR_DATASET', words: ['2000010 photos', 'at most 2000000'] }); // prettier-ignore
  await fail(render(at('none'), '--views', 'many'), { ...usage, words: ['--views', 'whole number'] });
  await fail(render(at('none'), '--crop', '9'), { ...usage, words: ['--crop', 'a number from 0.25 to 4'] });
  assert.not(existsSync(at('none')));
  assert.equal(readdirSync(at('other')), ['notes.txt']);
});

test.after(() => {
  rmSync(scratch, { recursive: true });
});

test.run();
