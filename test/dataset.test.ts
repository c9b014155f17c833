// Data sets on disk: folders and shards give the same photos, masks lie where their photo is, and what is damaged is named.
import { execFileSync } from 'node:child_process';
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { CachedDataset } from '../src/data/cached_dataset.js';
import { requireReadable, unreadablePhotos } from '../src/data/check_dataset.js';
import type { EncodedDataset, IdentityDataset } from '../src/data/dataset.js';
import { FolderDataset } from '../src/data/folder_dataset.js';
import { openDataset } from '../src/data/open_dataset.js';
import type { PhotoEncoding } from '../src/data/encode_square.js';
import { photosToPack } from '../src/data/pack.js';
import { readPhotoFile } from '../src/data/read_file.js';
import { writeShards, type PackedPhoto, type ShardOptions } from '../src/data/shard_writer.js';
import { ShardDataset } from '../src/data/webdataset.js';
import { tarFiles } from '../src/io/tar.js';
import { FewToManySampler } from '../src/train/few_to_many.js';
import { assertRejects, errorOf } from './support/errors.js';
import { disc, scratchFolder, write, writePeople } from './support/people.js';

const scratch = scratchFolder('dataset');
const at = scratch.at;
test.after(() => {
  scratch.remove();
});

const examples = join(import.meta.dirname, '../examples/photos');

function pack(
  dataset: EncodedDataset,
  folder: string,
  options: ShardOptions & { size?: number; encoding?: PhotoEncoding } = {},
): ReturnType<typeof writeShards> {
  const { encoding = 'npy', size } = options;
  const onUnreadable = ({ error }: { error: unknown }): never => {
    throw error;
  };
  return writeShards(folder, photosToPack(dataset, { size, encoding, onUnreadable }), options);
}

/** Fails unless two data sets hold the same photos. */
async function assertSame(actual: IdentityDataset, expected: IdentityDataset, size: number): Promise<void> {
  assert.is(actual.identities, expected.identities);
  for (let i = 0; i < expected.identities; i++) {
    assert.is(actual.identityName(i), expected.identityName(i));
    assert.is(actual.photos(i), expected.photos(i));
    for (let photo = 0; photo < expected.photos(i); photo++) {
      const a = await actual.read(i, photo, size);
      const b = await expected.read(i, photo, size);
      assert.ok(Buffer.from(a.pixels).equals(b.pixels), `photo ${photo} of ${expected.identityName(i)}`);
      assert.is(a.mask === undefined, b.mask === undefined);
      if (a.mask && b.mask) assert.ok(Buffer.from(a.mask).equals(b.mask));
    }
  }
}

test('a folder of folders: names, order, masks', async () => {
  await writePeople(at('people'), { 'p-10': 2, 'p-9': 3, 'Zoë 李 🙂': 1, 'deep/inner': 2 });
  write(at('people/p-9/notes.txt'), 'no photo');
  write(at('people/.hidden/1.png'), 'no identity');
  symlinkSync(at('people/p-10'), at('people/linked'));
  symlinkSync(at('people/p-9/0.png'), at('people/p-10/2.png'));
  symlinkSync(at('gone'), at('people/p-10/3.png'));
  const dataset = await FolderDataset.open(at('people'));
  const named = Array.from({ length: dataset.identities }, (_, i) => [
    dataset.identityName(i),
    dataset.photos(i),
  ]);
  assert.equal(named, [
    ['deep/inner', 2],
    ['linked', 3],
    ['p-9', 3],
    ['p-10', 3],
    ['Zoë 李 🙂', 1],
  ]);
  assert.equal(
    [0, 1, 2].map((photo) => dataset.hasMask(2, photo)),
    [true, false, true],
  );
  const { pixels, mask } = await dataset.read(2, 0, 32);
  const expected = disc(32, 32, 2);
  assert.ok(Buffer.from(pixels).equals(expected.pixels));
  assert.ok(mask && Buffer.from(mask).equals(expected.mask));
  assert.is((await dataset.read(2, 1, 32)).mask, undefined);
  await assertRejects(() => dataset.photos(5), 'ERR_INVALID_ARGUMENT', 'identity 5', 'which has 5');
  await assertRejects(() => dataset.read(0, 2, 32), 'ERR_INVALID_ARGUMENT', 'photo 2 of identity 0', 'has 2');
});

test('a mask lies where its photo is, whatever is done to both', async () => {
  for (const [i, [width, height]] of [
    [150, 150],
    [320, 240],
    [241, 321],
    [1000, 750],
    [50, 70],
  ].entries()) {
    const { photo, maskImage } = disc(width ?? 0, height ?? 0, i);
    const folder = at('masks', `size-${width}-${height}`);
    write(join(folder, 'a.png'), await photo.png().toBuffer());
    write(join(folder, 'a.mask.png'), await maskImage.png().toBuffer());
    write(join(folder, 'b.jpg'), await photo.jpeg({ quality: 98 }).toBuffer());
    write(join(folder, 'b.mask.png'), await maskImage.png({ palette: true, colours: 2 }).toBuffer());
    // As a camera writes it: the pixels lie on their side, and the mask is that of the upright photo.
    const turned = await photo.clone().rotate(-90).png().toBuffer();
    write(
      join(folder, 'c.jpg'),
      await sharp(turned).jpeg({ quality: 98 }).withMetadata({ orientation: 6 }).toBuffer(),
    );
    write(join(folder, 'c.mask.png'), await maskImage.png().toBuffer());
  }
  const dataset = await openDataset(at('masks'));
  for (let i = 0; i < dataset.identities; i++) {
    for (let n = 0; n < 3; n++) {
      const { pixels, mask } = await dataset.read(i, n, 112);
      assert.is(pixels.length, 112 * 112 * 3);
      assert.is(mask?.length, 112 * 112);
      let wrong = 0;
      let inside = 0;
      for (let p = 0; p < 112 * 112; p++) {
        if (mask?.[p] !== 0) inside++;
        if ((pixels[3 * p] ?? 0) > 128 !== (mask?.[p] !== 0)) wrong++;
      }
      // Half of a ring of a pixel around the disc may fall to either side; a shift of a pixel would be 67 pixels and more.
      assert.ok(inside > 3300 && inside < 3700, `${inside} pixels inside`);
      assert.ok(wrong < 65, `${dataset.identityName(i)}, photo ${n}: ${wrong} pixels are on the wrong side`);
    }
  }
});

test('a mask of another size, and what is no image', async () => {
  const { photo } = disc(40, 30, 1);
  write(at('wrong/p/a.png'), await photo.png().toBuffer());
  write(at('wrong/p/a.mask.png'), await disc(30, 40, 1).maskImage.png().toBuffer());
  write(at('wrong/p/b.png'), await photo.png().toBuffer());
  write(at('wrong/p/b.mask.png'), 'no image');
  write(at('wrong/p/c.png'), '');
  write(at('wrong/p/d.jpg'), (await photo.jpeg().toBuffer()).subarray(0, 400));
  const dataset = await openDataset(at('wrong'));
  const size = await assertRejects(
    () => dataset.read(0, 0, 16),
    'ERR_PIXELS_INVALID',
    'a.mask.png',
    'a mask of 30 × 40',
    '40 × 30',
    'photo 0 of identity 0',
  );
  assert.equal([Reflect.get(size, 'identity'), Reflect.get(size, 'photo')], [0, 0]);
  await assertRejects(() => dataset.read(0, 1, 16), 'ERR_IMAGE_UNREADABLE', 'b.mask.png');
  await assertRejects(() => dataset.read(0, 2, 16), 'ERR_IMAGE_UNREADABLE', 'c.png', 'empty');
  await assertRejects(() => dataset.read(0, 3, 16), 'ERR_IMAGE_UNREADABLE', 'd.jpg');
  assert.equal(
    (await unreadablePhotos(dataset)).map(({ photo }) => photo),
    [0, 1, 2, 3],
  );
  await assertRejects(() => requireReadable(dataset), 'ERR_DATASET', 'nothing can be read of p', 'd.jpg');
  write(at('wrong/p/e.png'), await photo.png().toBuffer());
  await requireReadable(await openDataset(at('wrong')));
});

test('folders that are no data set', async () => {
  mkdirSync(at('nothing'));
  await assertRejects(() => openDataset(at('nothing')), 'ERR_DATASET', at('nothing'), 'no identities');
  await assertRejects(() => openDataset(at('gone')), 'ERR_FILE', at('gone'));
  await writePeople(at('half'), { a: 1 });
  mkdirSync(at('half/empty'));
  write(at('half/masks/1.mask.png'), 'a mask is no photo');
  await assertRejects(() => openDataset(at('half')), 'ERR_DATASET', 'no photos in empty, masks');
});

test('shards give what was packed, with and without an index', async () => {
  await writePeople(at('plain'), {
    'Zoë 李 🙂': 3,
    b: 2,
    [`${'long-'.repeat(30)}/${'é'.repeat(90)}`]: 4,
    c: 3,
  });
  const folder = await openDataset(at('plain'));
  const written = await pack(folder, at('shards'), { shardBytes: 12_000 });
  assert.ok(written.shards.length > 2, String(written.shards));
  assert.equal([written.identities, written.photos], [4, 12]);
  assert.equal(readdirSync(at('shards')), ['index.json', ...written.shards]);
  const shards = await openDataset(at('shards'));
  assert.instance(shards, ShardDataset);
  for (const size of [32, 20]) await assertSame(shards, folder, size);
  // The bytes of the files are those of before.
  const { image, labels } = await shards.encoded(0, 1);
  assert.ok(Buffer.from(image.bytes).equals(readFileSync((await folder.encoded(0, 1)).image.name)));
  assert.equal(labels, { identity: shards.identityName(0) });

  const options = { seed: 1, identitiesPerStep: 2, inputs: 2, targets: 3, maskRatio: 0.5, patches: 4 };
  for (let step = 0; step < 3; step++) {
    assert.equal(
      new FewToManySampler(shards, options).sample(step),
      new FewToManySampler(folder, options).sample(step),
    );
  }
  await shards.close();
  await assertRejects(() => shards.read(0, 0, 32), 'ERR_DISPOSED', at('shards'), 'closed');

  rmSync(at('shards/index.json'));
  const scanned = await openDataset(at('shards'));
  await assertSame(scanned, folder, 32);
  // Packed again, the same bytes come out.
  await pack(scanned, at('shards-2'), { shardBytes: 12_000 });
  await scanned.close();
  for (const name of written.shards)
    assert.ok(readFileSync(at('shards', name)).equals(readFileSync(at('shards-2', name))), name);
  await assertRejects(() => pack(folder, at('shards')), 'ERR_FILE', 'already holds train-000000.tar');
});

test('other programs read the shards, and theirs are read', async () => {
  const folder = await openDataset(at('plain'));
  await pack(folder, at('for-tar'));
  const archive = at('for-tar/train-000000.tar');
  const unpacked = at('unpacked');
  write(join(unpacked, 'keep'), '');
  execFileSync('tar', ['xf', archive, '-C', unpacked]);
  for (let i = 0; i < folder.identities; i++) {
    for (let photo = 0; photo < folder.photos(i); photo++) {
      const file = join(unpacked, folder.identityName(i), `000${photo}.png`);
      assert.ok(readFileSync(file).equals(Buffer.from((await folder.encoded(i, photo)).image.bytes)), file);
    }
  }
  rmSync(join(unpacked, 'keep'));
  for (const format of ['gnu', 'pax', 'ustar']) {
    const paths = format === 'ustar' ? ['b', 'c'] : readdirSync(at('plain'));
    const made = at(`made-${format}`, 'x.tar');
    write(made, '');
    execFileSync('tar', ['cf', made, `--format=${format}`, '-C', at('plain'), ...paths]);
    const shards = await openDataset(at(`made-${format}`));
    const found = new Map(
      Array.from({ length: shards.identities }, (_, i) => [shards.identityName(i), shards.photos(i)]),
    );
    for (let i = 0; i < folder.identities; i++) {
      const name = folder.identityName(i);
      if (format !== 'ustar' || ['b', 'c'].includes(name)) assert.is(found.get(name), folder.photos(i), name);
    }
    assert.equal(await unreadablePhotos(shards), []);
    await shards.close();
  }
});

test('identities of flat shards are in .json or .cls', async () => {
  const { photo } = disc(16, 16, 1);
  for (const [name, content] of Object.entries({
    '000.json': '{"identity": 7, "yaw": 3}',
    '001.cls': '8\n',
    '002.json': '{"identity": "7"}',
  })) {
    write(at('flat', name), content);
    write(at('flat', name.replace(/\..*/, '.png')), await photo.png().toBuffer());
  }
  write(at('flat-shards/x.tar'), '');
  execFileSync('tar', ['cf', at('flat-shards/x.tar'), '-C', at('flat'), '.']);
  const shards = await openDataset(at('flat-shards'));
  const people = Array.from({ length: shards.identities }, (_, i) => [
    shards.identityName(i),
    shards.photos(i),
  ]);
  assert.equal(people.sort(), [
    ['7', 2],
    ['8', 1],
  ]);
  await shards.close();
  write(at('flat/003.png'), await photo.png().toBuffer());
  execFileSync('tar', ['cf', at('flat-shards/x.tar'), '-C', at('flat'), '.']);
  await assertRejects(() => openDataset(at('flat-shards')), 'ERR_DATASET', '003', 'of no identity', '.cls');
});

test('every encoding of scaled photos; npy and png are exact', async () => {
  const folder = await openDataset(examples);
  for (const encoding of ['npy', 'png', 'jpg', 'webp'] as const) {
    await pack(folder, at(`as-${encoding}`), { size: 64, encoding });
    const shards = await openDataset(at(`as-${encoding}`));
    if (encoding === 'npy' || encoding === 'png') {
      await assertSame(shards, folder, 64);
    } else {
      const { pixels } = await shards.read(1, 0, 64);
      const expected = (await folder.read(1, 0, 64)).pixels;
      const sum = expected.reduce((sum, value, i) => sum + Math.abs(value - (pixels[i] ?? 0)), 0);
      assert.ok(sum / expected.length < 4, `mean error ${sum / expected.length}`);
    }
    // Scaled again to another size.
    assert.is((await shards.read(1, 0, 32)).pixels.length, 32 * 32 * 3);
    await shards.close();
  }
  const masked = await openDataset(at('masks'));
  for (const encoding of ['npy', 'jpg'] as const) {
    await pack(masked, at(`masks-${encoding}`), { size: 64, encoding });
    const shards = await openDataset(at(`masks-${encoding}`));
    const mask = (await shards.read(2, 1, 64)).mask ?? new Uint8Array();
    assert.ok(Buffer.from(mask).equals((await masked.read(2, 1, 64)).mask ?? new Uint8Array(1)));
    await shards.close();
  }
});

test('damaged shards are named', async () => {
  const folder = await openDataset(at('plain'));
  const shard = at('damaged/train-000000.tar');
  await pack(folder, at('damaged'));
  const whole = readFileSync(shard);
  const index = readFileSync(at('damaged/index.json'));

  // The last file's last block but for 5 bytes.
  truncateSync(shard, whole.length - 1024 - 507);
  await assertRejects(() => openDataset(at('damaged')), 'ERR_DATASET', shard, `expected the ${whole.length}`);
  rmSync(at('damaged/index.json'));
  const cut = await assertRejects(() => openDataset(at('damaged')), 'ERR_DATASET', shard, 'was cut off');
  assert.match(cut.message, /ends at byte \d+, the archive at \d+/);
  truncateSync(shard, 700);
  await assertRejects(() => openDataset(at('damaged')), 'ERR_DATASET', shard, 'was cut off');

  const broken = Buffer.from(whole);
  broken[100] = 0xff;
  writeFileSync(shard, broken);
  await assertRejects(() => openDataset(at('damaged')), 'ERR_DATASET', shard, 'header at byte 0 is invalid');
  writeFileSync(shard, Buffer.alloc(10_240));
  await assertRejects(() => openDataset(at('damaged')), 'ERR_DATASET', 'no photos');

  writeFileSync(shard, whole);
  for (const text of ['{', '{"version": 2}', index.toString().replace('train-000000', '../train-000000')]) {
    writeFileSync(at('damaged/index.json'), text);
    await assertRejects(
      () => openDataset(at('damaged')),
      'ERR_DATASET',
      'index.json is not an index of shards',
    );
  }
  writeFileSync(at('damaged/index.json'), index.toString().replace('train-000000', 'train-000009'));
  await assertRejects(() => openDataset(at('damaged')), 'ERR_DATASET', 'train-000009.tar is not there');

  // Bytes of a photo that are damaged concern that photo alone.
  const [first] =
    (JSON.parse(index.toString()) as { shards: { samples: { image: [string, number, number] }[] }[] })
      .shards[0]?.samples ?? [];
  writeFileSync(at('damaged/index.json'), index);
  broken.set(whole);
  broken.fill(0, first?.image[1], (first?.image[1] ?? 0) + 60);
  writeFileSync(shard, broken);
  const dataset = await openDataset(at('damaged'));
  assert.equal(
    (await unreadablePhotos(dataset)).map(({ identity, photo }) => [identity, photo]),
    [[0, 0]],
  );
  await dataset.close();
});

test('every cut of an archive is found, or leaves whole files', async () => {
  await pack(await openDataset(at('plain')), at('cuts'));
  const path = at('cuts/train-000000.tar');
  const whole = readFileSync(path);
  for (let bytes = 0; bytes < whole.length; bytes += 397) {
    writeFileSync(path, whole.subarray(0, bytes));
    const file = await open(path);
    const files = [];
    try {
      for await (const entry of tarFiles(file, 'x.tar')) files.push(entry);
    } catch (error) {
      assert.match((error as Error).message, 'x.tar was cut off');
    } finally {
      await file.close();
    }
    for (const entry of files) assert.ok(entry.offset + entry.bytes <= bytes);
  }
});

test('writing stops cleanly', async () => {
  const photos = async function* (fail: () => void): AsyncGenerator<PackedPhoto> {
    const bytes = await disc(16, 16, 1).photo.png().toBuffer();
    for (let i = 0; i < 6; i++) {
      yield { identity: '../../out', image: { extension: 'png', bytes }, labels: { i, identity: 'no' } };
      if (i === 3) fail();
    }
  };
  const nothing = (): void => undefined;
  const small = { shardBytes: 1 };
  const failing = photos(() => {
    throw new Error('the source failed');
  });
  assert.is((await errorOf(() => writeShards(at('stopped'), failing, small))).message, 'the source failed');
  assert.equal(readdirSync(at('stopped')), []);
  const controller = new AbortController();
  const reason = new Error('enough');
  const aborted = writeShards(at('stopped'), photos(() => { controller.abort(reason); }), {
    ...small,
    signal: controller.signal,
  }); // prettier-ignore
  assert.is(await errorOf(() => aborted), reason);
  assert.equal(readdirSync(at('stopped')), []);
  const empty = {
    async *[Symbol.asyncIterator](): AsyncGenerator<PackedPhoto> {
      // no photos
    },
  };
  await assertRejects(() => writeShards(at('stopped'), empty), 'ERR_DATASET', 'no photos');
  await assertRejects(() => writeShards(at('plain/b/0.png'), photos(nothing)), 'ERR_FILE');

  const { shards } = await writeShards(at('stopped'), photos(nothing), small);
  assert.is(shards.length, 6);
  const dataset = await openDataset(at('stopped'));
  assert.equal([dataset.identityName(0), dataset.photos(0)], ['../../out', 6]);
  assert.equal((await dataset.encoded(0, 4)).labels, { i: 4, identity: '../../out' });
  await dataset.close();
  assert.match(
    execFileSync('tar', ['tf', at('stopped', shards[0] ?? '')]).toString(),
    /^_\/_\/out\/0000\.png\n/,
  );
});

test('the cache gives the same photos, decodes once, and keeps to its limit', async () => {
  const folder = await openDataset(at('plain'));
  let reads = 0;
  const counting: IdentityDataset = {
    name: 'counting',
    identities: folder.identities,
    photos: (identity) => folder.photos(identity),
    identityName: (identity) => folder.identityName(identity),
    read: (...place) => {
      reads++;
      return folder.read(...place);
    },
    close: () => Promise.resolve(),
  };
  const all = new CachedDataset(counting, 1e6);
  await assertSame(all, folder, 16);
  await assertSame(all, folder, 16);
  assert.is(reads, 12);
  await assertSame(all, folder, 20);
  assert.is(reads, 24);
  const some = new CachedDataset(counting, 4 * 16 * 16 * 4);
  await assertSame(some, folder, 16);
  assert.ok(some.cachedBytes > 0 && some.cachedBytes <= 4 * 16 * 16 * 4);
  reads = 0;
  await assertSame(some, folder, 16);
  assert.ok(reads >= 7 && reads <= 8, `${reads} reads`);
});

test('files that the system cannot read are tried again, and are no photos that are left out', async () => {
  const failing = (code: string, times: number) => {
    let calls = 0;
    return () => (calls++ < times ? Promise.reject(Object.assign(new Error(code), { code, syscall: 'read' })) : Promise.resolve(calls)); // prettier-ignore
  };
  assert.is(await readPhotoFile('x', failing('EMFILE', 3)), 4);
  await assertRejects(() => readPhotoFile('x', failing('EMFILE', 4)), 'ERR_FILE', 'cannot read x, 4 times: EMFILE'); // prettier-ignore
  await assertRejects(() => readPhotoFile('x', failing('EACCES', 1)), 'ERR_FILE', 'cannot read x: EACCES');
  await writePeople(at('moved'), { ann: 2, ben: 1 });
  const dataset = await FolderDataset.open(at('moved'));
  rmSync(at('moved/ann/0.png'));
  rmSync(at('moved/ann/1.png'));
  mkdirSync(at('moved/ann/1.png'));
  await assertRejects(() => dataset.read(0, 0, 16), 'ERR_IMAGE_NOT_FOUND', '0.png');
  await assertRejects(() => dataset.read(0, 1, 16), 'ERR_FILE', '1.png', 'EISDIR');
  await assertRejects(() => requireReadable(dataset), 'ERR_FILE', '1.png');
  const found = (await unreadablePhotos(dataset)).map(({ photo, error }) => [photo, error.code]);
  assert.equal(found, [[0, 'ERR_IMAGE_NOT_FOUND'], [1, 'ERR_FILE']]); // prettier-ignore
});

test.run();
