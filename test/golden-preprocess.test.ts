// CLIPImageProcessor with Pillow, to the bit.
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import { native } from '../src/bindings.js';
import { decodePhoto } from '../src/data/photo.js';
import { openDevice } from '../src/graph/devices.js';
import { defaultImageProcessor } from '../src/io/image_processor.js';
import { golden, tensorOf } from './support/golden.js';

test('clip_preprocess equals Pillow to the bit', async () => {
  const { folder, io } = await golden('clip_preprocess');
  const images = readdirSync(folder).filter((name) => /^image_\d+\.png$/.test(name));
  if (images.length === 0) throw new Error('the case clip_preprocess holds no images');
  const device = openDevice({});
  for (const name of images) {
    const expected = tensorOf(io, name.replace('image', 'pixel_values').replace('.png', ''));
    const crop = expected.shape.at(-1) ?? 0;
    const { mean, std, rescaleFactor: rescale } = defaultImageProcessor(crop);
    const image = await decodePhoto(join(folder, name), { photo: 0 });
    const tensor = new (native().Tensor)(device, { dtype: 'f32', shape: expected.shape });
    await native().preprocess(
      device,
      image,
      { resize: crop, crop, rescale, mean, std },
      tensor,
      0,
      new (native().Cancellation)(),
    );
    const actual = tensor.read(0, expected.data.length) as Float32Array;
    let different = 0;
    for (const [i, value] of expected.data.entries()) if (!Object.is(actual[i], value)) different++;
    console.log(
      `  ${name} ${image.width} × ${image.height}: ${different} of ${expected.data.length} values differ`,
    );
    if (different > 0) throw new Error(`${name}: ${different} values differ from Pillow's`);
  }
});

test.run();
