// Checkpoints under other names and in other forms give the same features to the bit; what does not fit is listed by name, all at once.
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ClipVisionEncoder, OmniIdEncoder, type WeightsError } from '../src/index.js';
import { readSafetensors, readSafetensorsHeader } from '../src/io/safetensors.js';
import { writeSafetensors } from '../src/io/safetensors_writer.js';
import { convertModel } from '../src/models/convert.js';
import { assertSameBits } from './support/assert_close.js';
import { assertRejects } from './support/errors.js';
import { golden, tensorOf } from './support/golden.js';

type Weights = Map<string, { shape: readonly number[]; data: Float32Array }>;

const { folder: clipFolder, config: clipConfig, io } = await golden('clip_vision_gelu');
const original: Weights = new Map();
for (const [name, { shape, data }] of await readSafetensors(join(clipFolder, 'model.safetensors'))) {
  original.set(name, { shape, data: data as Float32Array });
}
const pixels = tensorOf(io, 'pixel_values');
const photo = pixels.data.slice(0, pixels.data.length / (pixels.shape[0] ?? 1));
const root = mkdtempSync(join(tmpdir(), 'omni-id-checkpoints-'));
let count = 0;

async function save(
  weights: Weights,
  config: unknown,
  file = 'model.safetensors',
  configFile = 'config.json',
): Promise<string> {
  const folder = join(root, String(count++));
  mkdirSync(folder);
  const tensors = [...weights].map(([name, { shape, data }]) => {
    const bytes = new Uint8Array(data.slice().buffer);
    return {
      name,
      dtype: 'F32' as const,
      shape,
      byteLength: bytes.length,
      read: (first: number, n: number) => bytes.subarray(first, first + n),
    };
  });
  await writeSafetensors(join(folder, file), tensors);
  writeFileSync(join(folder, configFile), JSON.stringify(config));
  return folder;
}

async function features(folder: string): Promise<Float32Array> {
  using model = await ClipVisionEncoder.load(folder, { dtype: 'f32' });
  return (await model.embedImages([photo], { feature: 'pooled' })).data;
}

const expected = await features(clipFolder);
const zeros = (...shape: number[]): { shape: number[]; data: Float32Array } => ({
  shape,
  data: new Float32Array(shape.reduce((product, n) => product * n, 1)),
});

/** The golden weights under OpenCLIP's names, with the projections of attention fused. */
function openClip(prefix: string): Weights {
  const renamed: Weights = new Map();
  const names: [RegExp, string][] = [
    [/^embeddings\.class_embedding$/, 'class_embedding'],
    [/^embeddings\.position_embedding\.weight$/, 'positional_embedding'],
    [/^embeddings\.patch_embedding\.weight$/, 'conv1.weight'],
    [/^pre_layrnorm\./, 'ln_pre.'],
    [/^post_layernorm\./, 'ln_post.'],
    [/^encoder\.layers\.(\d+)\.layer_norm([12])\./, 'transformer.resblocks.$1.ln_$2.'],
    [/^encoder\.layers\.(\d+)\.self_attn\.out_proj\./, 'transformer.resblocks.$1.attn.out_proj.'],
    [/^encoder\.layers\.(\d+)\.mlp\.fc1\./, 'transformer.resblocks.$1.mlp.c_fc.'],
    [/^encoder\.layers\.(\d+)\.mlp\.fc2\./, 'transformer.resblocks.$1.mlp.c_proj.'],
  ];
  for (const [name, tensor] of original) {
    const local = name.replace('vision_model.', '');
    const projection = /^encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)$/.exec(local);
    if (projection) {
      const parts = ['q_proj', 'k_proj', 'v_proj'].map(
        (part) => original.get(name.replace('q_proj', part)) ?? zeros(),
      );
      const data = Float32Array.from(parts.flatMap((part) => [...part.data]));
      const shape = [3 * (tensor.shape[0] ?? 0), ...tensor.shape.slice(1)];
      renamed.set(`${prefix}transformer.resblocks.${projection[1]}.attn.in_proj_${projection[2]}`, {
        shape,
        data,
      });
    } else if (!/\.[kv]_proj\./.test(local)) {
      const [pattern, to] = names.find(([known]) => known.test(local)) ?? [/^/, 'unknown.'];
      renamed.set(prefix + local.replace(pattern, to), tensor);
    }
  }
  return renamed;
}

const sizes = {
  hidden: Number(clipConfig['hidden_size']),
  intermediate: Number(clipConfig['intermediate_size']),
  layers: Number(clipConfig['num_hidden_layers']),
  heads: Number(clipConfig['num_attention_heads']),
  image: Number(clipConfig['image_size']),
  patch: Number(clipConfig['patch_size']),
};
const openClipConfig = {
  model_cfg: {
    embed_dim: 32,
    vision_cfg: {
      image_size: sizes.image,
      layers: sizes.layers,
      width: sizes.hidden,
      head_width: sizes.hidden / sizes.heads,
      // open_clip rounds the product down.
      mlp_ratio: (sizes.intermediate + 0.5) / sizes.hidden,
      patch_size: sizes.patch,
    },
    text_cfg: { context_length: 77 },
  },
};

test('OpenCLIP, with and without its prefix', async () => {
  // open_clip's norms have torch's epsilon, and its config no field for another.
  const same = await features(await save(original, { ...clipConfig, layer_norm_eps: 1e-5 }));
  for (const prefix of ['visual.', '']) {
    const weights = openClip(prefix);
    weights.set(`${prefix}proj`, zeros(sizes.hidden, 32));
    if (prefix)
      for (const name of ['logit_scale', 'token_embedding.weight', 'transformer.resblocks.0.ln_1.weight'])
        weights.set(name, zeros(1));
    const folder = await save(
      weights,
      openClipConfig,
      'open_clip_model.safetensors',
      'open_clip_config.json',
    );
    assertSameBits(await features(folder), same, `OpenCLIP, prefix "${prefix}"`);
    const converted = join(root, `converted-${count++}`);
    await convertModel(folder, converted);
    assertSameBits(await features(converted), same, 'converted');
    const names = [...(await readSafetensorsHeader(join(converted, 'model.safetensors'))).tensors.keys()];
    assert.equal(names.sort(), [...original.keys()].sort());
  }
});

test('CLIPModel, CLIPVisionModelWithProjection, and names without the prefix', async () => {
  const projected: Weights = new Map(original).set('visual_projection.weight', zeros(8, 4));
  assertSameBits(
    await features(
      await save(projected, { ...clipConfig, architectures: ['CLIPVisionModelWithProjection'] }),
    ),
    expected,
    'CLIPVisionModelWithProjection',
  );
  const whole: Weights = new Map(projected)
    .set('text_model.embeddings.token_embedding.weight', zeros(9, 4))
    .set('text_projection.weight', zeros(8, 4))
    .set('logit_scale', zeros())
    .set('vision_model.embeddings.position_ids', zeros(1, 17));
  assertSameBits(
    await features(await save(whole, { model_type: 'clip', text_config: {}, vision_config: clipConfig })),
    expected,
    'CLIPModel',
  );
  const bare: Weights = new Map(
    [...original].map(([name, tensor]) => [name.replace('vision_model.', ''), tensor]),
  );
  assertSameBits(await features(await save(bare, clipConfig)), expected, 'without the prefix');
});

test('missing, extra and misshapen weights, all at once', async () => {
  const weights: Weights = new Map(original);
  weights.delete('vision_model.post_layernorm.bias');
  const fc1 = (layer: number): string => `vision_model.encoder.layers.${layer}.mlp.fc1.weight`;
  weights.delete(fc1(sizes.layers - 1));
  weights.set(fc1(sizes.layers), zeros(2));
  weights.set('vision_model.pre_layrnorm.weight', zeros(sizes.hidden + 1));
  const folder = await save(weights, clipConfig);
  const error = (await assertRejects(
    () => ClipVisionEncoder.load(folder),
    'ERR_WEIGHTS',
    'missing (2)',
    'extra (1)',
    'misshapen (1)',
  )) as WeightsError;
  assert.equal([...error.missing].sort(), [fc1(sizes.layers - 1), 'vision_model.post_layernorm.bias']);
  assert.equal(error.extra, [fc1(sizes.layers)]);
  const misshapen = `vision_model.pre_layrnorm.weight: [${sizes.hidden + 1}], expected [${sizes.hidden}]`;
  assert.equal(error.misshapen, [misshapen]);
});

test('configs that are wrong, and configs that contradict the weights', async () => {
  const wrong: [Record<string, unknown>, string][] = [
    [{ hidden_size: 'big' }, 'hidden_size'],
    [{ hidden_size: sizes.hidden + 1, num_attention_heads: sizes.hidden }, 'multiple of num_attention_heads'],
    [{ hidden_act: 'swish' }, 'hidden_act'],
    [{ patch_size: 0 }, 'patch_size'],
    [{ patch_size: sizes.image + 1 }, `patch_size is ${sizes.image + 1}, expected at most image_size`],
    [{ layer_norm_eps: -1 }, 'layer_norm_eps'],
    [{ num_channels: 4 }, 'num_channels'],
    [{ num_hidden_layers: 1e9 }, 'num_hidden_layers'],
  ];
  for (const [change, word] of wrong) {
    const folder = await save(original, { ...clipConfig, ...change });
    await assertRejects(() => ClipVisionEncoder.load(folder), 'ERR_CONFIG', 'config.json', word);
  }
  for (const change of [
    { num_hidden_layers: sizes.layers + 1 },
    ...(sizes.layers > 1 ? [{ num_hidden_layers: sizes.layers - 1 }] : []),
    { hidden_size: 2 * sizes.hidden },
    { image_size: sizes.image + sizes.patch },
    { intermediate_size: sizes.intermediate + 1 },
  ]) {
    const folder = await save(original, { ...clipConfig, ...change });
    await assertRejects(() => ClipVisionEncoder.load(folder), 'ERR_WEIGHTS');
  }
  const folder = await save(original, clipConfig);
  for (const text of ['', '{', '[]', 'null', '"x"', '{"vision_config": 7}']) {
    writeFileSync(join(folder, 'config.json'), text);
    await assertRejects(() => ClipVisionEncoder.load(folder), 'ERR_CONFIG');
  }
});

test('the image processor of a folder', async () => {
  const folder = await save(original, clipConfig);
  const write = (json: object): void => {
    writeFileSync(join(folder, 'preprocessor_config.json'), JSON.stringify(json));
  };
  write({
    image_mean: [0.5, 0.4, 0.3],
    image_std: [0.2, 0.2, 0.2],
    size: { shortest_edge: sizes.image + 6 },
    crop_size: sizes.image,
  });
  const model = await ClipVisionEncoder.load(folder);
  assert.equal(model.imageProcessor.mean, [0.5, 0.4, 0.3]);
  assert.is(model.imageProcessor.shortestEdge, sizes.image + 6);
  model.dispose();
  for (const [json, word] of [
    [{ resample: 2 }, 'bicubic'],
    [{ crop_size: sizes.image + 1 }, 'crop_size'],
    [{ size: { height: sizes.image, width: sizes.image }, crop_size: sizes.image }, 'distorts'],
    [{ size: { height: sizes.image, width: sizes.image } }, 'distorts'],
    [{ size: { height: sizes.image, width: 2 * sizes.image } }, 'distorts'],
    [{ image_std: [0, 1, 1] }, 'image_std'],
  ] as const) {
    // prettier-ignore
    write(json);
    await assertRejects(() => ClipVisionEncoder.load(folder), 'ERR_CONFIG', word);
  }
});

test('the preprocessing of an OpenCLIP config', async () => {
  const load = async (preprocess: object | undefined): Promise<ClipVisionEncoder> => {
    const config = { ...openClipConfig, ...(preprocess && { preprocess_cfg: preprocess }) };
    const folder = await save(
      openClip('visual.'),
      config,
      'open_clip_model.safetensors',
      'open_clip_config.json',
    );
    return ClipVisionEncoder.load(folder);
  };
  const mean = [0.5, 0.4, 0.3];
  const std = [0.2, 0.25, 0.3];
  using plain = await load(undefined);
  // What open_clip writes; its size is the tower's, whatever the field says.
  const whole = { size: 1, mode: 'RGB', mean, std, interpolation: 'bicubic', resize_mode: 'shortest', fill_color: 0 }; // prettier-ignore
  using given = await load(whole);
  assert.equal(given.imageProcessor, { ...plain.imageProcessor, mean, std });
  using half = await load({ mean });
  assert.equal(half.imageProcessor, { ...plain.imageProcessor, mean });
  for (const [change, word] of [
    [{ interpolation: 'bilinear' }, 'interpolation is "bilinear", expected "bicubic"'],
    [{ interpolation: 'random' }, 'interpolation is "random", expected "bicubic"'],
    [{ resize_mode: 'squash' }, 'resize_mode is "squash", expected "shortest"'],
    [{ resize_mode: 'longest' }, 'resize_mode is "longest", expected "shortest"'],
    [{ mode: 'L' }, 'mode is "L", expected "RGB"'],
    [{ mean: 0.5 }, 'mean'],
    [{ std: [1, 0, 1] }, 'std.1 is 0, expected a number above 0'],
  ] as const) {
    await assertRejects(
      () => load({ ...whole, ...change }),
      'ERR_CONFIG',
      'open_clip_config.json',
      `preprocess_cfg.${word}`,
    );
  }

  // Converting keeps them, under the names of transformers.
  const source = await save(
    openClip('visual.'),
    { ...openClipConfig, preprocess_cfg: whole },
    'open_clip_model.safetensors',
    'open_clip_config.json',
  );
  const converted = join(root, `converted-${count++}`);
  await convertModel(source, converted);
  using again = await ClipVisionEncoder.load(converted);
  assert.equal(again.imageProcessor, given.imageProcessor);
});

test('an encoder that was saved is the same when it is loaded', async () => {
  const { folder: source } = await golden('omni_encoder');
  await using encoder = await OmniIdEncoder.load(source, { dtype: 'f32' });
  const input = [[new Float32Array(3 * encoder.config.vision.imageSize ** 2).fill(0.3)]];
  const before = (await encoder.embed(input)).data;
  for (const dtype of ['f32', 'bf16', 'f16'] as const) {
    const folder = join(root, `saved-${dtype}`);
    await encoder.save(folder, { dtype });
    assert.equal(readdirSync(folder).sort(), ['config.json', 'model.safetensors']);
    await using loaded = await OmniIdEncoder.load(folder, { dtype: 'f32' });
    assert.equal(loaded.config, encoder.config);
    const after = (await loaded.embed(input)).data;
    if (dtype === 'f32') assertSameBits(after, before, 'saved as f32');
    else
      assert.ok(
        after.some((value, i) => value !== before[i]) &&
          after.every((value, i) => Math.abs(value - (before[i] ?? NaN)) < 0.2),
      );
    // A second save replaces the first.
    await encoder.save(folder, { dtype });
  }
  const saved = readFileSync(join(root, 'saved-f32/model.safetensors'));
  const resaved = join(root, 'resaved');
  await convertModel(join(root, 'saved-f32'), resaved);
  assert.equal(readFileSync(join(resaved, 'model.safetensors')), saved);
});

test('a new encoder on a given CLIP has its weights', async () => {
  const { folder: source, config } = await golden('omni_encoder');
  const head = config['encoder'] as Record<string, number>;
  const preset = { tokens: 3, width: head['c'] ?? 0, heads: head['heads'] ?? 0 };
  await using from = await OmniIdEncoder.load(source, { dtype: 'f32' });
  await using encoder = await OmniIdEncoder.create(
    { ...from.config, ...preset },
    { vision: clipFolder, dtype: 'f32', seed: 5 },
  );
  assert.is(encoder.config.vision.imageSize, sizes.image);
  const pooled = await encoder.embedImages([photo], { feature: 'pooled' });
  assertSameBits(pooled.data, expected, 'pooled features of the given CLIP');
  assert.equal((await encoder.embed([[photo, photo]])).shape, [1, 3, preset.width]);
});

test.after(() => {
  rmSync(root, { recursive: true, force: true });
});

test.run();
