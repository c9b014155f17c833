// Decoding: every format and kind of pixel that sharp reads becomes 8-bit RGB; what is no image is a typed error.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { crc32, deflateSync } from 'node:zlib';
import sharp, { type Sharp } from 'sharp';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { decodePhoto, type RawImage } from '../src/data/photo.js';
import { listPhotos } from '../src/data/photo_files.js';
import { assertRejects } from './support/errors.js';

const width = 12;
const height = 8;
/** A corner that shows orientation: red at the top left, blue elsewhere. */
const corner = new Uint8Array(width * height * 3);
for (let i = 0; i < width * height; i++) {
  const inCorner = i % width < 4 && i < 3 * width;
  corner.set(inCorner ? [230, 20, 10] : [10, 20, 230], 3 * i);
}
const rgb = (): Sharp => sharp(corner, { raw: { width, height, channels: 3 } });
const decode = (bytes: Uint8Array, options = {}): Promise<RawImage> =>
  decodePhoto(bytes, { photo: 0 }, options);
const pixel = ({ data, width: row }: RawImage, x: number, y: number): number[] => [
  ...data.slice((y * row + x) * 3, (y * row + x) * 3 + 3),
];
const close = (actual: number[], expected: number[], tolerance: number): void => {
  for (const [i, value] of expected.entries()) {
    assert.ok(
      Math.abs((actual[i] ?? NaN) - value) <= tolerance,
      `${actual.join()} is not near ${expected.join()}`,
    );
  }
};
const scratch = mkdtempSync(join(tmpdir(), 'omni-id-images-'));

test('lossless formats keep every pixel', async () => {
  for (const [name, encoded] of Object.entries({
    png: rgb().png(),
    webp: rgb().webp({ lossless: true }),
    tiff: rgb().tiff({ compression: 'lzw' }),
    palette: rgb().png({ palette: true }),
    gif: rgb().gif(),
  })) {
    const image = await decode(await encoded.toBuffer());
    assert.equal([image.width, image.height, image.channels], [width, height, 3], name);
    close([...image.data], [...corner], name === 'gif' || name === 'palette' ? 8 : 0);
  }
});

test('lossy formats come close', async () => {
  const large = await rgb().resize(120, 80, { kernel: 'nearest' }).png().toBuffer();
  for (const encoded of [
    sharp(large).jpeg({ quality: 95 }),
    sharp(large).avif({ quality: 80 }),
    sharp(large).webp({ quality: 90 }),
  ]) {
    const image = await decode(await encoded.toBuffer());
    assert.equal([image.width, image.height], [120, 80]);
    close(pixel(image, 5, 5), [230, 20, 10], 30);
    close(pixel(image, 100, 70), [10, 20, 230], 30);
  }
});

test('EXIF orientation is applied', async () => {
  const places: Record<number, [boolean, boolean, boolean]> = {
    // orientation: sides swapped, corner at the right, corner at the bottom
    1: [false, false, false], 2: [false, true, false], 3: [false, true, true], 4: [false, false, true],
    5: [true, false, false], 6: [true, true, false], 7: [true, true, true], 8: [true, false, true],
  }; // prettier-ignore
  for (const [orientation, [swapped, right, bottom]] of Object.entries(places)) {
    const image = await decode(
      await rgb()
        .png()
        .withMetadata({ orientation: Number(orientation) })
        .toBuffer(),
    );
    assert.equal([image.width, image.height], swapped ? [height, width] : [width, height], orientation);
    assert.equal(
      pixel(image, right ? image.width - 1 : 0, bottom ? image.height - 1 : 0),
      [230, 20, 10],
      orientation,
    );
    assert.equal(
      pixel(image, right ? 0 : image.width - 1, bottom ? 0 : image.height - 1),
      [10, 20, 230],
      orientation,
    );
  }
});

test('transparency lies on the background', async () => {
  const clear = await sharp({
    create: { width: 4, height: 4, channels: 4, background: { r: 9, g: 9, b: 9, alpha: 0 } },
  })
    .png()
    .toBuffer();
  assert.equal(pixel(await decode(clear), 1, 1), [255, 255, 255]);
  assert.equal(pixel(await decode(clear, { background: '#102030' }), 1, 1), [16, 32, 48]);
  const half = await sharp({
    create: { width: 4, height: 4, channels: 4, background: { r: 200, g: 100, b: 0, alpha: 0.5 } },
  })
    .png()
    .toBuffer();
  close(pixel(await decode(half, { background: 'black' }), 1, 1), [100, 50, 0], 2);
});

test('grey, grey with alpha, 16 bit and CMYK', async () => {
  const grey = await rgb().greyscale().png().toBuffer();
  const [r, g, b] = pixel(await decode(grey), 1, 1);
  assert.ok(r === g && g === b);
  assert.is((await decode(grey)).data.length, width * height * 3);
  const greyAlpha = await sharp(grey).ensureAlpha(0.5).png().toBuffer();
  assert.is((await decode(greyAlpha)).data.length, width * height * 3);

  const values = Uint16Array.from({ length: width * height * 3 }, (_, i) => (i * 211) & 0xffff);
  const deep = await sharp(values, { raw: { width, height, channels: 3 } })
    .toColourspace('rgb16')
    .png()
    .toBuffer();
  assert.is((await sharp(deep).metadata()).depth, 'ushort');
  close(
    [...(await decode(deep)).data],
    [...values].map((value) => value >> 8),
    1,
  );

  const cmyk = await rgb()
    .resize(64, 64, { kernel: 'nearest' })
    .toColourspace('cmyk')
    .jpeg({ quality: 95 })
    .toBuffer();
  assert.is((await sharp(cmyk).metadata()).space, 'cmyk');
  const converted = await decode(cmyk);
  const [red = 0, , blue = 0] = pixel(converted, 4, 4);
  assert.ok(red > blue + 60, 'the corner is still red');
});

test('only the first frame of an animation', async () => {
  const frames = await Promise.all(
    ['#ff0000', '#00ff00'].map((background) =>
      sharp({ create: { width: 6, height: 6, channels: 3, background } })
        .png()
        .toBuffer(),
    ),
  );
  const animation = await sharp(frames, { join: { animated: true } })
    .gif()
    .toBuffer();
  assert.is((await sharp(animation).metadata()).pages, 2);
  const image = await decode(animation);
  assert.equal([image.width, image.height], [6, 6]);
  close(pixel(image, 3, 3), [255, 0, 0], 8);
});

test('what is no image', async () => {
  const jpeg = await rgb().resize(200, 200).jpeg().toBuffer();
  const png = await rgb().resize(200, 200).png({ compressionLevel: 0 }).toBuffer();
  for (const bytes of [
    jpeg.subarray(0, jpeg.length >> 1),
    png.subarray(0, png.length >> 1),
    new Uint8Array(10),
    jpeg.subarray(0, 20),
  ]) {
    await assertRejects(
      () => decodePhoto(bytes, { photo: 2, identity: 5 }),
      'ERR_IMAGE_UNREADABLE',
      'photo 2 of identity 5',
    );
  }
  await assertRejects(() => decode(new Uint8Array(0)), 'ERR_IMAGE_UNREADABLE', 'photo 0', 'empty');
  await assertRejects(() => decodePhoto(import.meta.dirname, { photo: 0 }), 'ERR_IMAGE_UNREADABLE', 'this is a folder'); // prettier-ignore
  await assertRejects(() => decode(png, { maxPixels: 39_999 }), 'ERR_IMAGE_TOO_LARGE', '200 × 200', '39999');
  // 30,000 × 30,000 pixels in a hundred bytes: refused by its header, before anything is unpacked.
  const chunk = (type: string, data: Buffer): Buffer => {
    const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
    const ends = Buffer.alloc(8);
    ends.writeUInt32BE(data.length, 0);
    ends.writeUInt32BE(crc32(body), 4);
    return Buffer.concat([ends.subarray(0, 4), body, ends.subarray(4)]);
  };
  const header = Buffer.from([0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30, 8, 2, 0, 0, 0]);
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  const bomb = Buffer.concat([
    signature,
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(Buffer.alloc(64))),
    chunk('IEND', Buffer.alloc(0)),
  ]);
  await assertRejects(() => decode(bomb), 'ERR_IMAGE_TOO_LARGE', '30000 × 30000');
});

test('paths and URLs', async () => {
  const path = join(scratch, 'photo.png');
  writeFileSync(path, await rgb().png().toBuffer());
  assert.equal([...(await decodePhoto(path, { photo: 0 })).data], [...corner]);
  assert.equal([...(await decodePhoto(pathToFileURL(path), { photo: 0 })).data], [...corner]);
  await assertRejects(
    () => decodePhoto(join(scratch, 'gone.png'), { photo: 1 }),
    'ERR_IMAGE_NOT_FOUND',
    'gone.png',
    'photo 1',
  );
  await assertRejects(() => decodePhoto(join(path, 'inside'), { photo: 1 }), 'ERR_IMAGE_NOT_FOUND');
  await assertRejects(() => decodePhoto(scratch, { photo: 1 }), 'ERR_IMAGE_UNREADABLE');
});

test('listing photos', async () => {
  const root = join(scratch, 'people');
  for (const name of ['b/10.jpg', 'b/9.JPG', 'a/x.png', 'a/deep/y.webp', 'a/notes.txt', 'a/.hidden.png']) {
    mkdirSync(join(root, name, '..'), { recursive: true });
    writeFileSync(join(root, name), '');
  }
  const groups = await listPhotos([root], 'folder');
  assert.equal(
    groups.map(({ name }) => name),
    ['deep', 'a', 'b'],
  );
  assert.equal(groups[2]?.photos, [join(root, 'b/9.JPG'), join(root, 'b/10.jpg')]);
  assert.is((await listPhotos([root], 'file')).length, 4);
  assert.is((await listPhotos([root], 'all'))[0]?.photos.length, 4);
  // What is not there is a photo that cannot be used: found out, and reported, with the others.
  const nowhere = join(root, 'nowhere');
  assert.equal(await listPhotos([nowhere, join(root, 'b')], 'file'), [
    { name: nowhere, photos: [nowhere] },
    { name: join(root, 'b/9.JPG'), photos: [join(root, 'b/9.JPG')] },
    { name: join(root, 'b/10.jpg'), photos: [join(root, 'b/10.jpg')] },
  ]);
  mkdirSync(join(scratch, 'bare'));
  await assertRejects(() => listPhotos([join(scratch, 'bare')], 'all'), 'ERR_INVALID_ARGUMENT', 'no photos');
});

test('two folders of one name have their paths as names', async () => {
  const root = join(scratch, 'namesakes');
  const names = ['x/same/1.png', 'y/same/1.png', 'y/other/1.png'];
  for (const name of names) {
    mkdirSync(join(root, name, '..'), { recursive: true });
    writeFileSync(join(root, name), '');
  }
  const groups = await listPhotos([root], 'folder');
  assert.equal(
    groups.map(({ name }) => name),
    [join(root, 'x/same'), 'other', join(root, 'y/same')],
  );
});

test('tens of thousands of photos, of one identity or of as many', async () => {
  // None of them is there, which listing does not mind.
  const count = 60_000;
  for (const [identities, path] of [
    [1, (i: number) => join(scratch, 'nobody', `${i}.png`)],
    [count, (i: number) => join(scratch, `person ${i}`, 'photo.png')],
  ] as const) {
    const paths = Array.from({ length: count }, (_, i) => path(i));
    const started = performance.now();
    const groups = await listPhotos(paths, 'folder');
    const tookMs = performance.now() - started;
    assert.is(groups.length, identities);
    assert.is(groups.at(-1)?.photos.at(-1), paths.at(-1));
    // In time that grows with the square, this takes half a minute.
    assert.ok(tookMs < 8000, `${identities} identities: ${tookMs} ms`);
  }
});

test.after(() => {
  rmSync(scratch, { recursive: true, force: true });
});

test.run();
