// What must hold whatever the weights are: the order of photos, ragged batches, repetition, threads.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { OmniIdEncoder } from '../src/index.js';
import { assertClose, assertSameBits } from './support/assert_close.js';
import { golden } from './support/golden.js';
import { procedural } from './support/procedural.js';

const { folder } = await golden('omni_encoder');

async function withEncoder(
  options: { dtype: 'f32' | 'bf16'; threads?: number },
  body: (encoder: OmniIdEncoder, photo: (i: number) => Float32Array) => Promise<void>,
): Promise<void> {
  await using encoder = await OmniIdEncoder.load(folder, options);
  const size = 3 * encoder.config.vision.imageSize ** 2;
  await body(encoder, (i) => procedural(`photo ${i}`, size, 0, 1.5));
}

for (const dtype of ['f32', 'bf16'] as const) {
  test(`the order of photos does not matter beyond rounding, ${dtype}`, () =>
    withEncoder({ dtype }, async (encoder, photo) => {
      const photos = [0, 1, 2, 3, 4].map(photo);
      const forward = await encoder.embed([photos]);
      const shuffled = await encoder.embed([[3, 0, 4, 2, 1].map(photo)]);
      assertClose(shuffled.data, forward.data, dtype === 'f32' ? 2e-6 : 2e-2, 'shuffled');
      const other = await encoder.embed([[5, 6].map(photo)]);
      assert.throws(() => {
        assertClose(other.data, forward.data, 2e-2, 'other photos');
      }, 'relative error');
    }));

  test(`a ragged batch equals its identities one by one, to the bit, ${dtype}`, () =>
    withEncoder({ dtype }, async (encoder, photo) => {
      let next = 0;
      const identities = [3, 1, 7, 2, 1, 40, 5].map((count) =>
        Array.from({ length: count }, () => photo(next++)),
      );
      const { data, shape } = await encoder.embed(identities);
      const [, tokens = 0, width = 0] = shape;
      for (const [i, photos] of identities.entries()) {
        const alone = await encoder.embed([photos]);
        assertSameBits(data.slice(i * tokens * width, (i + 1) * tokens * width), alone.data, `identity ${i}`);
      }
    }));

  test(`the same bits on every run and for every number of threads, ${dtype}`, async () => {
    const results: Float32Array[] = [];
    for (const threads of [1, 2, 3, 5]) {
      await withEncoder({ dtype, threads }, async (encoder, photo) => {
        const identities = [[0, 1, 2].map(photo), [photo(3)]];
        results.push((await encoder.embed(identities)).data, (await encoder.embed(identities)).data);
      });
    }
    const [first = new Float32Array(0)] = results;
    for (const [i, result] of results.entries()) assertSameBits(result, first, `run ${i}`);
  });
}

test('raw pixels, their PNG and the preprocessed pixels agree', () =>
  withEncoder({ dtype: 'f32' }, async (encoder) => {
    const { default: sharp } = await import('sharp');
    const data = new Uint8Array(90 * 60 * 3).map((_, i) => (i * 37 + (i >> 5)) & 255);
    const png = await sharp(data, { raw: { width: 90, height: 60, channels: 3 } })
      .png()
      .toBuffer();
    const fromRaw = await encoder.embed([[{ data, width: 90, height: 60, channels: 3 }]]);
    const fromPng = await encoder.embed([[new Uint8Array(png)]]);
    assertSameBits(fromPng.data, fromRaw.data, 'PNG');
  }));

test('a new encoder follows from its seed alone', async () => {
  const { config } = await OmniIdEncoder.load(folder);
  const tokens = async (seed: number, threads: number): Promise<Float32Array> => {
    await using encoder = await OmniIdEncoder.create(config, { seed, threads, dtype: 'f32' });
    const photo = procedural('photo', 3 * config.vision.imageSize ** 2, 0, 1);
    return (await encoder.embed([[photo]])).data;
  };
  const first = await tokens(11, 1);
  assertSameBits(await tokens(11, 3), first, 'three threads');
  assert.not.equal(await tokens(12, 1), first);
});

test.run();
