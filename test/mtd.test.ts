// The masked transformer decoder as a model: any grouping gives the same pictures, what is visible and what counts, folders, and bad input. Its
// numbers are compared with PyTorch's in golden-reconstruct.test.ts.
import { readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import sharp from 'sharp';
import {
  MaskedTransformerDecoder,
  type MtdConfig,
  type Photo,
  type ReconstructOptions,
} from '../src/index.js';
import { mtdConfigToJson, parseMtdConfig } from '../src/io/mtd_config.js';
import { mtdWeights } from '../src/models/masked_transformer_decoder.js';
import { runsOf, type TargetRun } from '../src/models/target_runs.js';
import { assertClose, assertSameBits } from './support/assert_close.js';
import { assertRejects, errorOf } from './support/errors.js';
import { disc, scratchFolder, write } from './support/people.js';
import { procedural } from './support/procedural.js';
import { smallMtd } from './support/small_pair.js';

const scratch = scratchFolder('mtd');
const { imageSize: size, tokenWidth: width, patchSize } = smallMtd;
const values = 3 * size * size;
const length = 4;

const tokensOf = (identities: number, name = 'tokens') => ({
  data: procedural(name, identities * length * width, 0, 1),
  shape: [identities, length, width],
});
const photo = (seed: number): Float32Array => procedural(`photo ${seed}`, values, 0, 1);
const decoder = (options: { seed?: number; dtype?: 'f32' | 'bf16' } = {}) =>
  MaskedTransformerDecoder.create(smallMtd, { dtype: 'f32', threads: 2, seed: 5, ...options });

test('runs hold every target once, in order, and no more than they may', () => {
  const lists = [
    [],
    [0],
    [3, 3, 3],
    [8, 2, 2, 0, 2, 1],
    [9, 9],
    [1, 1, 1, 1, 1, 1, 1],
    [4, 4, 8, 4],
    [20, 3],
  ];
  for (const counts of lists) {
    const runs: TargetRun[] = [...runsOf(counts, 8)];
    let target = 0;
    const left = [...counts];
    for (const run of runs) {
      assert.is(run.firstTarget, target);
      assert.ok(run.identities * run.targets <= 8 && run.targets > 0);
      for (let i = run.firstIdentity; i < run.firstIdentity + run.identities; i++)
        left[i] = (left[i] ?? 0) - run.targets;
      target += run.identities * run.targets;
    }
    assert.ok(
      left.every((count) => count === 0),
      JSON.stringify(counts),
    );
  }
  assert.is([...runsOf([4, 4, 4, 4], 8)].length, 2, 'identities share runs');
});

test('any grouping gives the same pictures', async () => {
  await using model = await decoder();
  const tokens = tokensOf(3);
  // More targets of the first than a run of 2,080 patches takes.
  const targets = [Array.from({ length: 135 }, (_, i) => photo(i)), [], [photo(1000), photo(1001)]];
  const done: number[] = [];
  const all = await model.reconstruct(tokens, targets, {
    seed: 9,
    onProgress: ({ targetsDone, targetsTotal }) => {
      assert.is(targetsTotal, 137);
      done.push(targetsDone);
    },
  });
  assert.equal(all.shape, [137, 3, size, size]);
  assert.equal(done, [130, 135, 137]);
  for (const [target, identity, source] of [
    [0, 0, 0],
    [134, 0, 134],
    [136, 2, 1001],
  ] as const) {
    // prettier-ignore
    const one = { data: tokens.data.slice(identity * length * width, (identity + 1) * length * width), shape: [1, length, width] }; // prettier-ignore
    const visible = [all.visible[target] ?? new Int32Array()];
    const alone = await model.reconstruct(one, [[photo(source)]], { visible });
    assertClose(
      all.prediction.slice(target * values, (target + 1) * values),
      alone.prediction,
      1e-5,
      `target ${target}`,
    );
    assert.ok(Math.abs((all.losses[target] ?? NaN) - (alone.losses[0] ?? NaN)) < 1e-5);
  }
  const { losses } = await model.losses(tokens, targets, { seed: 9 });
  assert.equal(losses, all.losses);
  const none = await model.reconstruct({ data: new Float32Array(), shape: [0, length, width] }, []);
  assert.equal([none.prediction.length, none.shape[0], none.visible], [0, 0, []]);
});

test('visible patches follow from the seed; only they are seen', async () => {
  await using model = await decoder();
  const tokens = tokensOf(1);
  const targets = [[photo(1), photo(2)]];
  const first = await model.reconstruct(tokens, targets, { seed: 1, maskRatio: 0.75 });
  assert.equal(
    (await model.reconstruct(tokens, targets, { seed: 1, maskRatio: 0.75 })).visible,
    first.visible,
  );
  assert.not.equal(
    (await model.reconstruct(tokens, targets, { seed: 2, maskRatio: 0.75 })).visible,
    first.visible,
  );
  assert.not.equal(first.visible[0], first.visible[1]);
  for (const patches of first.visible) {
    assert.is(patches.length, 4);
    assert.equal(
      [...patches],
      [...new Set(patches)].sort((a, b) => a - b),
    );
  }
  // A pixel of a masked patch changes nothing, one of a visible patch does.
  const visible = [Int32Array.of(0, 5)];
  const at = (row: number, column: number): number => row * patchSize * size + column * patchSize;
  const changed = (pixel: number): Float32Array => photo(1).fill(3, pixel, pixel + 1);
  const plain = await model.reconstruct(tokens, [[photo(1)]], { visible });
  const masked = await model.reconstruct(tokens, [[changed(at(2, 2))]], { visible });
  assertSameBits(masked.prediction, plain.prediction, 'a masked patch');
  const seen = await model.reconstruct(tokens, [[changed(at(1, 1))]], { visible });
  assert.not.equal(seen.prediction, plain.prediction);
});

test('losses count what masks cover', async () => {
  await using model = await decoder();
  const tokens = tokensOf(1);
  const half = new Uint8Array(size * size).fill(255, 0, (size * size) / 2);
  const masks = [half, undefined, new Uint8Array(size * size)];
  const targets = [[photo(1), photo(1), photo(1)]];
  const visible = Array.from(masks, () => Int32Array.of(3));
  const { prediction, losses } = await model.reconstruct(tokens, targets, { masks, visible });
  const target = photo(1);
  const mean = (pixels: number): number => {
    let sum = 0;
    for (let channel = 0; channel < 3; channel++) {
      for (let i = 0; i < pixels; i++) {
        const at = channel * size * size + i;
        sum += Math.abs((prediction[at] ?? NaN) - (target[at] ?? NaN));
      }
    }
    return sum / pixels / 3;
  };
  assertClose(Float32Array.from(losses.subarray(0, 2)), Float32Array.of(mean((size * size) / 2), mean(size * size)), 1e-6, 'losses'); // prettier-ignore
  assert.ok(Number.isNaN(losses[2]), 'an empty mask counts nothing');
});

test('photos of any kind; bytes on request', async () => {
  await using model = await decoder();
  const { pixels } = disc(size, size, 4);
  const raw = { data: pixels, width: size, height: size, channels: 3 } as const;
  const path = scratch.at('photo.png');
  write(
    path,
    await sharp(pixels, { raw: { width: size, height: size, channels: 3 } })
      .png()
      .toBuffer(),
  );
  const prepared = await model.prepare([path, readFileSync(path), raw]);
  const [first] = prepared;
  if (!first) throw new Error('nothing was prepared');
  for (const other of prepared) assertSameBits(other, first, 'prepared');
  const { imageMean: mean, imageStd: std } = smallMtd;
  const expected = Float32Array.from(first, (_, i) => {
    const channel = Math.floor(i / (size * size));
    return (
      ((pixels[3 * (i % (size * size)) + channel] ?? 0) / 255 - (mean[channel] ?? 0)) / (std[channel] ?? 1)
    );
  });
  assertClose(first, expected, 1e-5, 'pixels');
  const tokens = tokensOf(1);
  const kinds = await model.reconstruct(tokens, [[path, raw, first]], { visible: Array.from({ length: 3 }, () => Int32Array.of(7)) }); // prettier-ignore
  for (const i of [1, 2]) assertSameBits(kinds.prediction.slice(i * values, (i + 1) * values), kinds.prediction.slice(0, values), 'kinds'); // prettier-ignore
  const bytes = await model.reconstruct(tokens, [[path]], { visible: [Int32Array.of(7)], format: 'rgb' });
  assert.equal(bytes.shape, [1, size, size, 3]);
  assert.instance(bytes.prediction, Uint8Array);
  for (const [i, byte] of bytes.prediction.entries()) {
    const channel = i % 3;
    const value = 255 * ((kinds.prediction[channel * size * size + Math.floor(i / 3)] ?? NaN) * (std[channel] ?? 1) + (mean[channel] ?? 0)); // prettier-ignore
    assert.ok(Math.abs(byte - Math.min(255, Math.max(0, value))) <= 0.501, `byte ${i}`);
  }
});

test('saved, loaded and made again', async () => {
  const folder = scratch.at('saved');
  const targets = [[photo(1)]];
  await using made = await decoder();
  await made.save(folder);
  const expected = await made.reconstruct(tokensOf(1), targets);
  await using loaded = await MaskedTransformerDecoder.load(folder, {
    dtype: 'f32',
    threads: 2,
    packedCache: 'write',
  });
  assert.equal(loaded.config, smallMtd);
  assertSameBits((await loaded.reconstruct(tokensOf(1), targets)).prediction, expected.prediction, 'loaded');
  await using cached = await MaskedTransformerDecoder.load(folder, { dtype: 'f32', threads: 2 });
  assertSameBits((await cached.reconstruct(tokensOf(1), targets)).prediction, expected.prediction, 'cached');
  await using again = await decoder({ seed: 5 });
  assertSameBits((await again.reconstruct(tokensOf(1), targets)).prediction, expected.prediction, 'seed');
  await using other = await decoder({ seed: 6 });
  assert.not.equal((await other.reconstruct(tokensOf(1), targets)).prediction, expected.prediction);
});

test('weights by their published names', () => {
  const names = [...mtdWeights(smallMtd)].map(([name, { shape }]) => `${name} ${shape.join('×')}`);
  for (const expected of [
    'patch_embed.weight 16×147',
    'mask_token 16',
    'pos_embed 16×16',
    'cross_blocks.0.attn.to_k.weight 16×24',
    'cross_blocks.0.norm_kv.weight 24',
    'self_blocks.0.mlp.fc1.weight 32×16',
    'norm_out.bias 16',
    'head.weight 147×16',
  ])
    // prettier-ignore
    assert.ok(names.includes(expected), `${expected} in ${names.join(', ')}`);
});

test('configs: as they were written, and every problem at once', async () => {
  assert.equal(parseMtdConfig(JSON.parse(JSON.stringify(mtdConfigToJson(smallMtd))), 'c'), smallMtd);
  const json = mtdConfigToJson(smallMtd);
  const refused = (changed: Record<string, unknown>, ...words: string[]) =>
    assertRejects(() => parseMtdConfig({ ...json, ...changed }, 'c.json'), 'ERR_CONFIG', 'c.json does not describe a masked transformer decoder', ...words); // prettier-ignore
  await refused({ model_type: 'clip' }, 'model_type', 'omni_id_mtd');
  await refused({ patch_size: 8 }, 'image_size is 28, expected a multiple of patch_size, which is 8');
  await refused({ heads: 3 }, 'expected a multiple of heads, which is 3');
  await refused({ mask_ratio: 1 }, 'mask_ratio', 'below 1');
  await refused({ mask_ratio: 0 }, 'mask_ratio', 'above 0');
  await refused({ image_std: [1, 0, 1] }, 'image_std.1 is 0, expected a number above 0');
  await refused({ depth: 3, width: 0 }, 'unknown field "depth": expected model_type', 'width is 0');
  await assertRejects(
    () => MaskedTransformerDecoder.create({ ...smallMtd, heads: 3 }),
    'ERR_CONFIG',
    'heads',
  );
  await assertRejects(() => MaskedTransformerDecoder.create({ ...smallMtd, size: 3 } as MtdConfig), 'ERR_CONFIG', 'size'); // prettier-ignore
  await assertRejects(() => MaskedTransformerDecoder.create(smallMtd, { vision: 'x' } as never), 'ERR_INVALID_ARGUMENT', 'vision'); // prettier-ignore
});

test('bad calls are refused with what was given and expected', async () => {
  await using model = await decoder();
  const tokens = tokensOf(1);
  const refused = (words: string[], given: { tokens?: unknown; targets?: unknown; options?: unknown }, code = 'ERR_INVALID_ARGUMENT') =>
    assertRejects(
      () =>
        model.reconstruct(
          ('tokens' in given ? given.tokens : tokens) as typeof tokens,
          (given.targets ?? [[photo(1)]]) as Photo[][],
          given.options as ReconstructOptions & { format: 'f32' },
        ),
      code,
      ...words,
    ); // prettier-ignore
  await refused(['tokens is null', '[1, L, 24]'], { tokens: null });
  await refused(['[2, 4, 24]', '[1, L, 24]'], { tokens: tokensOf(2) });
  await refused(['[1, 4, 23]'], { tokens: { data: new Float32Array(92), shape: [1, 4, 23] } });
  await refused(['95 values', '96'], { tokens: { data: new Float32Array(95), shape: [1, 4, 24] } });
  await refused(['value 7', 'NaN'], { tokens: { ...tokens, data: tokens.data.slice().fill(NaN, 7, 8) } });
  await refused(['targets is "a.png"'], { targets: 'a.png' });
  await refused(['targets of identity 0 are "a.png"'], { targets: ['a.png'] });
  await refused(
    ['photo 0 of identity 0', '3 values'],
    { targets: [[new Float32Array(3)]] },
    'ERR_PIXELS_INVALID',
  );
  await refused(['photo 1 of identity 0', 'no-such.png'], { targets: [[photo(1), 'no-such.png']] }, 'ERR_IMAGE_NOT_FOUND'); // prettier-ignore
  await refused(['photo 0 of identity 0', 'Infinity'], { targets: [[photo(1).fill(Infinity, 4, 5)]] }, 'ERR_PIXELS_INVALID'); // prettier-ignore
  for (const maskRatio of [0, 1, NaN, '0.5']) await refused(['maskRatio', 'above 0 and below 1'], { options: { maskRatio } }); // prettier-ignore
  await refused(['seed', '0.5'], { options: { seed: 0.5 } });
  await refused(['format', 'png'], { options: { format: 'png' } });
  await refused(['unknown option "ratio"'], { options: { ratio: 0.5 } });
  await refused(['visible is 3'], { options: { visible: 3 } });
  await refused(['visible has 0 elements', '1 target'], { options: { visible: [] } });
  await refused(['visible[0]', 'at least one'], { options: { visible: [new Int32Array()] } });
  await refused(['visible[0] has patch 16', '0 to 15'], { options: { visible: [Int32Array.of(16)] } });
  await refused(['visible[0] has patch -1'], { options: { visible: [Int32Array.of(-1)] } });
  await refused(['visible[0] has a patch twice'], { options: { visible: [Int32Array.of(1, 1)] } });
  await refused(['visible[1] has 2 patches'], { targets: [[photo(1), photo(2)]], options: { visible: [Int32Array.of(1), Int32Array.of(1, 2)] } }); // prettier-ignore
  await refused(['masks[0] has 5 pixels', '28 × 28'], { options: { masks: [new Uint8Array(5)] } });
  // What was refused leaves nothing behind.
  assert.is((await model.reconstruct(tokens, [[photo(1)]])).losses.length, 1);
});

test('calls queue, stop on a signal, and end with the model', async () => {
  const model = await decoder();
  const targets = [Array.from({ length: 300 }, (_, i) => photo(i % 7))];
  const reason = new Error('enough');
  const controller = new AbortController();
  const stopped = model.losses(tokensOf(1), targets, {
    signal: controller.signal,
    onProgress: () => {
      controller.abort(reason);
    },
  });
  const [one, two] = await Promise.all([
    model.losses(tokensOf(1), [[photo(1)]]),
    model.losses(tokensOf(1), [[photo(1)]]),
    errorOf(() => stopped).then((error) => {
      assert.is(error, reason);
    }),
  ]);
  assert.equal(one, two);
  // Disposed of after the first of several batches.
  const error = await errorOf(() =>
    model.losses(tokensOf(1), targets, {
      onProgress: () => {
        model.dispose();
      },
    }),
  );
  assert.is((error as NodeJS.ErrnoException).code, 'ERR_DISPOSED');
  await assertRejects(() => model.losses(tokensOf(1), [[photo(1)]]), 'ERR_DISPOSED');
});

test('bf16 is close to f32', async () => {
  await using exact = await decoder();
  await using rounded = await decoder({ dtype: 'bf16' });
  const [a, b] = [await exact.reconstruct(tokensOf(2), [[photo(1)], [photo(2)]]), await rounded.reconstruct(tokensOf(2), [[photo(1)], [photo(2)]])]; // prettier-ignore
  assertClose(b.prediction, a.prediction, 0.03, 'bf16');
});

test.after(scratch.remove);

test.run();
