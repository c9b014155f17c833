// `omni-id dataset` as a shell meets it.
import { cpSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { FolderDataset } from '../src/data/folder_dataset.js';
import { openDataset } from '../src/data/open_dataset.js';
import { assertEnded, at, cleanUp, fail, omniId, succeed } from './support/cli.js';
import { write, writePeople } from './support/people.js';

test.before(async () => {
  await writePeople(at('set'), { 'Zoë 李': 9, ben: 4, cid: 8 }, 24);
});
test.after(cleanUp);

interface Inspected {
  readonly identities: number;
  readonly photos: number;
  readonly photosPerIdentity: readonly { photos: number; identities: number }[];
  readonly maskShare: number;
  readonly sizes: readonly { width: number; height: number; photos: number }[];
  readonly shortOfPhotos: number;
  readonly unreadable?: readonly { identity: string; photo: number; code: string }[];
}

test('inspect tells what a folder holds', async () => {
  const stdout = await succeed('dataset', 'inspect', 'set');
  for (const line of [
    'set: 3 identities, 21 photos',
    ' 4  █████████████ 1\n',
    'face masks: 52.4 % of the photos',
    'sizes: 24 × 24 (21)',
    'identities with too few photos for 3 inputs and 8 targets: 1 of 3; theirs are drawn several times',
    'photos were not decoded: --check decodes all of them',
  ])
    assert.ok(stdout.includes(line), `"${line}" is not in ${stdout}`);
  assert.match(
    await succeed('dataset', 'inspect', 'set', '--targets', '4', '--check'),
    'all photos can be read',
  );
  const json = JSON.parse(await succeed('dataset', 'inspect', 'set', '--json')) as Inspected;
  assert.equal(json.photosPerIdentity, [
    { photos: 4, identities: 1 },
    { photos: 8, identities: 1 },
    { photos: 9, identities: 1 },
  ]);
  assert.equal(json.sizes, [{ width: 24, height: 24, photos: 21 }]);
  assert.equal([json.identities, json.photos, json.shortOfPhotos], [3, 21, 1]);
  assert.is(json.maskShare, 11 / 21);
});

test('pack gives the same photos, scaled or as they are', async () => {
  assert.match(
    await succeed('dataset', 'pack', 'set', '--out', 'packed'),
    'packed: 21 photos of 3 identities in 1 shard (',
  );
  assert.equal(readdirSync(at('packed')), ['index.json', 'train-000000.tar']);
  const json = JSON.parse(
    await succeed(
      'dataset',
      'pack',
      'packed',
      '--out',
      'small',
      '--size',
      '16',
      '--shard-bytes',
      '9000',
      '--json',
    ),
  ) as { shards: string[]; photos: number; encoding: string; size: number };
  assert.ok(json.shards.length > 2);
  assert.equal([json.photos, json.encoding, json.size], [21, 'npy', 16]);
  const folder = await FolderDataset.open(at('set'));
  const shards = await openDataset(at('small'));
  for (let i = 0; i < 3; i++) {
    assert.is(shards.identityName(i), folder.identityName(i));
    for (let photo = 0; photo < folder.photos(i); photo++) {
      const expected = await folder.read(i, photo, 16);
      const { pixels, mask } = await shards.read(i, photo, 16);
      assert.ok(Buffer.from(pixels).equals(expected.pixels));
      assert.equal(mask && Buffer.from(mask), expected.mask && Buffer.from(expected.mask));
    }
  }
  await shards.close();
});

test('photos that cannot be used are named and left out', async () => {
  cpSync(at('set'), at('bad'), { recursive: true });
  write(at('bad/ben/1.png'), 'no image');
  // What is no photo is seen without decoding; what is cut off in the middle is not.
  write(at('bad/cid/2.png'), (await readFile(at('set/cid/2.png'))).subarray(0, -30));
  const looked = await omniId(['dataset', 'inspect', 'bad']);
  assertEnded(looked, 1);
  assert.match(looked.stdout, '1 photo cannot be read of the 21 that were looked at; photos were not decoded: --check decodes all of them'); // prettier-ignore
  assert.match(looked.stderr, /^omni-id: cannot be used: photo 1 of identity \d \(bad\/ben\/1\.png\): .*\n$/);
  const whole = await omniId(['dataset', 'inspect', 'bad', '--check']);
  assertEnded(whole, 1);
  assert.match(whole.stdout, '2 photos cannot be read');
  cpSync(at('set/cid/2.png'), at('bad/cid/2.png'));
  const checked = await omniId(['dataset', 'inspect', 'bad', '--check', '--json']);
  assertEnded(checked, 1);
  const { unreadable } = JSON.parse(checked.stdout) as Inspected;
  assert.equal(
    unreadable?.map(({ identity, photo, code }) => [identity, photo, code]),
    [['ben', 1, 'ERR_IMAGE_UNREADABLE']],
  );
  const packed = await omniId([
    'dataset',
    'pack',
    'bad',
    '--out',
    'bad-packed',
    '--size',
    '16',
    '--encoding',
    'jpg',
  ]);
  assertEnded(packed, 1);
  assert.match(packed.stderr, /^omni-id: cannot be used: photo 1 of identity \d \(bad\/ben\/1\.png\): /);
  assert.match(packed.stdout, '20 photos of 3 identities');
});

test('what makes no sense is refused', async () => {
  const usage = { exit: 2, code: 'ERR_INVALID_ARGUMENT' };
  await fail(['dataset', 'pack', 'set', '--out', 'x', '--encoding', 'png'], { ...usage, words: ['--size'] });
  await fail(['dataset', 'pack', 'set', '--out', 'x', '--size', '0'], {
    ...usage,
    words: ['--size', 'a whole number from 1'],
  });
  for (const inside of ['./set', 'set/shards'])
    await fail(['dataset', 'pack', 'set', '--out', inside], {
      ...usage,
      words: [inside, 'not in that of the photos'],
    });
  await fail(['dataset', 'pack', 'set', '--out', 'x', '--size', '5000'], {
    ...usage,
    words: ['--size', 'to 4096'],
  });
  await fail(['dataset', 'inspect', 'set', '--inputs', '0'], {
    ...usage,
    words: ['--inputs', 'a whole number from 1'],
  });
  await fail(['dataset', 'inspect', 'gone'], { exit: 1, code: 'ERR_FILE', words: ['gone'] });
  mkdirSync(at('nothing'));
  await fail(['dataset', 'pack', 'nothing', '--out', 'x'], {
    exit: 1,
    code: 'ERR_DATASET',
    words: ['no identities'],
  });
  await fail(['dataset', 'pack', 'set', '--out', 'packed'], {
    exit: 1,
    code: 'ERR_FILE',
    words: ['already holds'],
  });
  assert.not(existsSync(at('x')));
  const help = await omniId(['dataset', 'frobnicate']);
  assertEnded(help, 2);
  assert.match(help.stderr, "unknown command 'frobnicate'");
});

test.run();
