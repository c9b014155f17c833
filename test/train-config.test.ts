// Training configurations, settings on the command line, what may differ on resume, learning rates, and roles of parameters.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { presets, type PresetName } from '../src/models/presets.js';
import {
  checkResumable,
  difference,
  parseTrainingConfig,
  patchesOf,
  readTrainingConfig,
  resumable,
} from '../src/train/config.js';
import { ParameterGroups } from '../src/train/parameter_groups.js';
import { trainingPresets } from '../src/train/presets.js';
import { learningRateFactor } from '../src/train/schedule.js';
import { withSettings } from '../src/train/settings.js';
import { omniIdWeights } from '../src/models/omni_id_encoder.js';
import { assertRejects } from './support/errors.js';

const folder = mkdtempSync(join(tmpdir(), 'omni-id-train-config-'));
const parse = (json: unknown) => parseTrainingConfig(json, 'run.json');
const asJson = (value: unknown): unknown => JSON.parse(JSON.stringify(value));

test('an empty file is a whole run', () => {
  const config = parse({});
  assert.equal(config.encoder, presets.nano);
  assert.equal(config.decoders, [
    {
      type: 'mtd', weight: 1, imageSize: 112, patchSize: 14, width: 384, heads: 6,
      crossBlocks: 2, selfBlocks: 2, mlpRatio: 4, maskRatio: 0.95,
    },
  ]); // prettier-ignore
  assert.equal(config.sampling, { identities: 4, inputs: [3, 3], targets: 8, targetsMayIncludeInputs: true, flip: 0.5 }); // prettier-ignore
  assert.equal(config.optimizer.betas, [0.9, 0.95]);
  assert.ok(config.data.kind === 'rendered' && config.data.size === 112);
  assert.equal(config.decoders.map(patchesOf), [{ all: 64, visible: 3 }]);
});

test('a configuration with all defaults filled in gives itself again', () => {
  const inputs: unknown[] = [
    {},
    { encoder: 'h', decoders: [{ type: 'mtd', width: 640, maskRatio: 0.9 }, { type: 'mtd', imageSize: 56 }] },
    { encoder: { vision: { hiddenSize: 192, imageSize: 64, patchSize: 8 }, width: 128 }, decoders: [{ type: 'mtd', patchSize: 8 }] },
    { data: { kind: 'shards', path: 'x', heldOut: { path: 'y', identities: 3 } }, sampling: { inputs: [1, 8] } },
    ...Object.values(trainingPresets),
  ]; // prettier-ignore
  for (const input of inputs) {
    const once = asJson(parse(input));
    assert.equal(asJson(parse(once)), once);
  }
});

test('a training preset has its encoder under the same name', () => {
  for (const [name, preset] of Object.entries(trainingPresets)) {
    const { encoder } = parse(preset);
    assert.equal(encoder, presets[name as PresetName]);
    assert.equal(parse({ encoder: name }).encoder, encoder);
  }
  // What a run of 'nano-synth' may be resumed with: its sizes are those that `nano` scales to.
  const sizes = { preset: 'nano', vision: { hiddenSize: 256, numHiddenLayers: 6 }, tokens: 32, width: 256 };
  assert.equal(parse({ encoder: sizes }).encoder, presets['nano-synth']);
});

test('another width keeps the width of heads and the ratio of MLPs', () => {
  const { encoder, decoders } = parse({
    encoder: { vision: { hiddenSize: 192 }, width: 128 },
    decoders: [{ type: 'mtd', width: 256 }],
  });
  assert.is(encoder.vision.intermediateSize, 768);
  assert.is(encoder.vision.numAttentionHeads, 3);
  assert.is(encoder.heads, 2);
  assert.is(decoders[0]?.heads, 4);
});

const bad: [what: string, json: unknown, ...words: string[]][] = [
  ['a list', [], 'the whole'],
  ['an unknown field', { learningRate: 1 }, 'unknown field "learningRate"', 'optimizer', 'maxSkippedSteps'],
  ['unknown fields further in', { optimizer: { lr: 1 }, log: { often: 2 } }, 'optimizer: unknown field "lr"', 'log: unknown field "often"', 'expected every'],
  ['an unknown preset', { encoder: 'huge' }, 'encoder.preset is "huge", expected "nano", "nano-synth" or "h"'],
  ['an unknown field of the encoder', { encoder: { imageSize: 64 } }, 'unknown field "imageSize"', 'vision'],
  ['an unknown decoder', { decoders: [{ type: 'flow' }] }, 'decoders.0.type is "flow", expected "mtd"'],
  ['no decoder', { decoders: [] }, 'at least one decoder'],
  ['an unknown field of a decoder', { decoders: [{ type: 'mtd', ratio: 1 }] }, 'decoders.0: unknown field "ratio"', 'maskRatio'],
  ['an unknown kind of data', { data: { kind: 'zip', path: 'x' } }, 'data.kind is "zip", expected "folder", "shards" or "rendered"'],
  ['data without a path', { data: { kind: 'folder' } }, 'data.path'],
  ['S of 0', { sampling: { inputs: 0 } }, 'sampling.inputs.0'],
  ['S the wrong way round', { sampling: { inputs: [3, 1] } }, 'sampling.inputs is [3, 1]'],
  ['S of three numbers', { sampling: { inputs: [1, 2, 3] } }, 'sampling.inputs'],
  ['R of 0', { sampling: { targets: 0 } }, 'sampling.targets', 'is 0,'],
  ['half an image', { sampling: { targets: 1.5 } }, 'sampling.targets', 'is 1.5,'],
  ['a mask ratio of 0', { decoders: [{ type: 'mtd', maskRatio: 0 }] }, 'decoders.0.maskRatio', 'is 0,'],
  ['a mask ratio of 1', { decoders: [{ type: 'mtd', maskRatio: 1 }] }, 'decoders.0.maskRatio', 'is 1,'],
  ['a mask that leaves nothing', { decoders: [{ type: 'mtd', patchSize: 56 }] }, 'leaves 0 of 4 patches visible'],
  ['an image that does not fit the patch', { encoder: { vision: { imageSize: 100 } } }, 'encoder.vision.imageSize is 100', 'which is 14', 'decoders.0.imageSize is 100'],
  ['a width that does not fit the heads', { encoder: { heads: 5 } }, 'encoder.width is 384', 'its heads, which is 5'],
  ['a tower that does not fit its heads', { encoder: { vision: { numAttentionHeads: 7 } } }, 'hiddenSize is 384', 'which is 7'],
  ['pictures of another size', { encoder: { imageProcessor: { ...presets.nano.imageProcessor, cropSize: 64 } } }, 'cropSize is 64', '112'],
  ['identities that cannot be split', { accumulation: 3 }, 'sampling.identities is 4', 'accumulation, which is 3'],
  ['a learning rate of 0', { optimizer: { learningRate: 0 } }, 'optimizer.learningRate', 'is 0,'],
  ['a learning rate that is text', { optimizer: { learningRate: 'fast' } }, 'is "fast",', 'number'],
  ['a beta of 1', { optimizer: { betas: [0.9, 1] } }, 'optimizer.betas.1 is 1, expected a number of at least 0 and below 1'],
  ['betas of another number', { optimizer: { betas: [0.9] } }, 'optimizer.betas is [0.9], expected 2 elements'],
  ['a clipping norm of 0', { optimizer: { clipGradNorm: 0 } }, 'clipGradNorm is 0, expected a number above 0, or null'],
  ['no steps', { steps: 0 }, 'steps', 'is 0,'],
  ['an unknown type', { dtype: 'f16' }, 'dtype', '"bf16"', 'is "f16",'],
  ['an unknown device', { device: 'tpu' }, 'device', 'is "tpu",'],
  ['more rendered people than can be listed', { data: { kind: 'rendered', identities: 1e9 } }, 'data.identities is 1000000000, expected a whole number from 1 to 10000000', 'in memory'],
  ['more views than can be listed', { data: { kind: 'rendered', views: 1e6 } }, 'data.views is 1000000, expected a whole number from 1 to 100000'],
  ['more photos than an index holds', { data: { kind: 'rendered', identities: 500_000, views: 12 } }, '6000000 photos, expected at most 2000000', 'index'],
  ['more held-out people than can be listed', { data: { kind: 'rendered', heldOut: { identities: 1e9 } } }, 'data.heldOut.identities is 1000000000, expected a whole number from 0 to 10000000'],
  ['larger pictures than are rendered', { data: { kind: 'rendered', size: 4096 } }, 'data.size is 4096, expected a whole number from 1 to 2048'],
  ['targets larger than what is rendered', { decoders: [{ type: 'mtd', imageSize: 2058 }] }, 'data.size is 2058', 'at most 2048'],
  ['several mistakes', { steps: -1, seed: 0.5 }, 'steps', 'seed'],
]; // prettier-ignore

for (const [what, json, ...words] of bad) {
  test(`refused: ${what}`, async () => {
    await assertRejects(() => parse(json), 'ERR_CONFIG', 'run.json', ...words);
  });
}

test('settings reach every field, also of what the file leaves out or has in its short form', async () => {
  const path = join(folder, 'run.json');
  writeFileSync(path, JSON.stringify({ encoder: 'nano', optimizer: { weightDecay: 0.1 } }));
  const config = await readTrainingConfig(path, [
    'encoder.tokens=32',
    'decoders.0.maskRatio=0.9',
    'data.identities=100',
    'data.cache=/a=b',
    'optimizer.learningRate=1e-4',
    'optimizer.frozen=["encoder.vision_model.*"]',
    'optimizer.emaDecay=null',
    'sampling.inputs=[1,3]',
  ]);
  assert.is(config.encoder.tokens, 32);
  assert.is(config.decoders[0]?.maskRatio, 0.9);
  assert.ok(config.data.kind === 'rendered');
  assert.is(config.data.identities, 100);
  assert.is(config.data.cache, '/a=b');
  assert.is(config.optimizer.learningRate, 1e-4);
  assert.is(config.optimizer.weightDecay, 0.1);
  assert.equal(config.optimizer.frozen, ['encoder.vision_model.*']);
  assert.is(config.optimizer.emaDecay, null);
  assert.equal(config.sampling.inputs, [1, 3]);
});

test('settings that are none, or of unknown fields, are refused by name', async () => {
  const read = (...settings: string[]) => readTrainingConfig({ json: {}, name: 'nano-synth' }, settings);
  await assertRejects(
    () => read('optimizer.lr=1'),
    'ERR_INVALID_ARGUMENT',
    'nano-synth with its settings',
    'optimizer: unknown field "lr"',
  );
  await assertRejects(
    () => read('steps=0', 'seed=1'),
    'ERR_INVALID_ARGUMENT',
    'nano-synth with its settings',
    'steps is 0',
  );
  await assertRejects(() => read('sampling.identities=3', 'accumulation=2'), 'ERR_INVALID_ARGUMENT', 'accumulation, which is 2'); // prettier-ignore
  await assertRejects(() => readTrainingConfig({ json: {} }, ['steps=0']), 'ERR_INVALID_ARGUMENT', 'the configuration with its settings'); // prettier-ignore
  await assertRejects(() => readTrainingConfig('nano-synth'), 'ERR_FILE', "json: trainingPresets[\"nano-synth\"]"); // prettier-ignore
  // A file that is none by itself is not the settings' fault.
  await assertRejects(() => readTrainingConfig({ json: { steps: 0 }, name: 'x' }, ['seed=1']), 'ERR_CONFIG', 'x with its settings does not'); // prettier-ignore
  await assertRejects(() => read('a.b.c=1'), 'ERR_INVALID_ARGUMENT', 'unknown field "a"');
  await assertRejects(() => read('steps'), 'ERR_INVALID_ARGUMENT', '--set steps', 'key.path=value');
  await assertRejects(() => read('=1'), 'ERR_INVALID_ARGUMENT', 'key.path=value');
  await assertRejects(() => read('a..b=1'), 'ERR_INVALID_ARGUMENT', 'key.path=value');
  await assertRejects(() => read('__proto__.polluted=1'), 'ERR_INVALID_ARGUMENT', '__proto__');
  await assertRejects(() => read('constructor.x=1'), 'ERR_INVALID_ARGUMENT', 'unknown field "constructor"');
  await assertRejects(() => read('decoders.1.weight=2'), 'ERR_INVALID_ARGUMENT', 'decoders has 1 element');
  await assertRejects(() => read('steps=10', 'steps.x=1'), 'ERR_INVALID_ARGUMENT', 'steps is 10');
  assert.is(({} as Record<string, unknown>)['polluted'], undefined);
});

test('settings leave what they are applied to as it is', () => {
  const json = { encoder: 'nano', optimizer: { weightDecay: 0.1 } };
  withSettings(json, ['optimizer.weightDecay=0.2']);
  assert.equal(json, { encoder: 'nano', optimizer: { weightDecay: 0.1 } });
});

test('files that are not there, and not JSON', async () => {
  await assertRejects(() => readTrainingConfig(join(folder, 'none.json')), 'ERR_FILE', 'none.json');
  const path = join(folder, 'cut.json');
  writeFileSync(path, '{"steps":');
  await assertRejects(() => readTrainingConfig(path), 'ERR_CONFIG', 'cut.json is not JSON');
  await assertRejects(
    () => readTrainingConfig({ json: { clip: join(folder, 'no-clip') }, name: 'x' }),
    'ERR_FILE',
    'no-clip',
  );
});

test('a CLIP folder gives the tower its sizes', async () => {
  const clip = join(import.meta.dirname, 'golden/clip_vision_gelu');
  const json = { clip, decoders: [{ type: 'mtd' as const, imageSize: 112 }] };
  const { encoder } = await readTrainingConfig({ json, name: 'x' });
  const { hiddenSize, imageSize } = encoder.vision;
  assert.is.not(hiddenSize, presets.nano.vision.hiddenSize);
  assert.is(encoder.imageProcessor.cropSize, imageSize);
  assert.is(encoder.tokens, presets.nano.tokens);
});

test('differences name the fields', () => {
  const a = asJson(parse({}));
  const b = asJson(parse({ steps: 7, encoder: { tokens: 32 }, optimizer: { backboneLearningRate: 1e-5 }, decoders: [{ type: 'mtd' }, { type: 'mtd' }] })); // prettier-ignore
  const found = difference(a, b);
  assert.equal(found.map(({ field }) => field).sort(), ['decoders.1', 'encoder.tokens', 'optimizer.backboneLearningRate', 'steps']); // prettier-ignore
  assert.equal(
    found.find(({ field }) => field === 'encoder.tokens'),
    { field: 'encoder.tokens', a: 64, b: 32 },
  );
  assert.equal(difference(a, asJson(a)), []);
});

test('a run may be resumed with another length, logs, checkpoints and device, and nothing else', async () => {
  const saved = asJson(parse({}));
  const free = parse({
    steps: 9, threads: 3, device: 'cpu', checkpointing: true, maxSkippedSteps: 1, log: { every: 1 }, checkpoints: { keepLast: 1, best: false },
    data: { kind: 'rendered', prefetch: 9, workers: 1, cache: 'x' },
  }); // prettier-ignore
  checkResumable(saved, free, 'step-1');
  const changed = new Set(difference(saved, asJson(free)).map(({ field }) => field));
  for (const field of resumable)
    if (field !== 'clip') assert.ok([...changed].some((name) => name === field || name.startsWith(`${field}.`)), field); // prettier-ignore
  await assertRejects(
    () => {
      checkResumable(saved, parse({ steps: 9, seed: 1, encoder: { tokens: 32 } }), 'step-1');
    },
    'ERR_CONFIG',
    'step-1 is of another configuration',
    'seed was 0 and is now 1',
    'encoder.tokens was 64 and is now 32',
  );
});

test('learning rates: warm-up, cosine, constant', () => {
  const options = { schedule: 'cosine', warmupSteps: 10, steps: 111, minLearningRateRatio: 0.1 } as const;
  const at = (step: number): number => learningRateFactor(step, options);
  assert.is(at(0), 0.1);
  assert.is(at(4), 0.5);
  assert.is(at(9), 1);
  assert.is(at(10), 1);
  assert.ok(Math.abs(at(60) - 0.55) < 1e-12, 'half-way down at half the steps');
  // cos(π/3) = 1/2: three quarters of the way are left after a third of the steps.
  assert.ok(Math.abs(learningRateFactor(1, { ...options, warmupSteps: 0, steps: 4 }) - 0.775) < 1e-12);
  assert.is(at(110), 0.1);
  assert.is(at(500), 0.1);
  for (let step = 11; step <= 110; step++) assert.ok(at(step) < at(step - 1));
  for (const step of [10, 60, 1e9]) assert.is(learningRateFactor(step, { ...options, schedule: 'constant' }), 1);
  assert.is(learningRateFactor(0, { ...options, warmupSteps: 0 }), 1);
  // A run of a few steps, to try something out.
  assert.is(learningRateFactor(2, { ...options, steps: 3 }), 0.3);
  assert.is(learningRateFactor(0, { ...options, steps: 1, warmupSteps: 0 }), 1);
}); // prettier-ignore

test('every parameter of an encoder and a decoder has its role', () => {
  const { optimizer, encoder } = parse({ optimizer: { frozen: ['encoder.vision_model.*'] } });
  const groups = new ParameterGroups(optimizer);
  const decaying = /\.(patch_embedding|q_proj|k_proj|v_proj|out_proj|fc1|fc2|to_q|to_k|to_v|to_out)\.weight$/;
  for (const [name, { shape }] of omniIdWeights(encoder)) {
    const role = groups.role(`encoder.${name}`, shape);
    assert.is(role.frozen, name.startsWith('vision_model.'), name);
    assert.is(role.group, name.startsWith('vision_model.') ? 'backbone' : 'new', name);
    assert.is(role.decay, decaying.test(name), name);
  }
  const decoder: [name: string, shape: number[], decay: boolean][] = [
    ['decoders.0.patch_embed.weight', [384, 588], true],
    ['decoders.0.patch_embed.bias', [384], false],
    ['decoders.0.mask_token', [1, 384], false],
    ['decoders.0.pos_embed', [64, 384], false],
    ['decoders.0.cross_blocks.0.norm_kv.weight', [384], false],
    ['decoders.0.self_blocks.1.mlp.fc1.weight', [1536, 384], true],
    ['decoders.0.head.weight', [588, 384], true],
  ];
  for (const [name, shape, decay] of decoder)
    assert.equal(groups.role(name, shape), { frozen: false, decay, group: 'new' }, name);
});

test('patterns that match nothing, or everything, are refused', async () => {
  const names = ['encoder.queries', 'encoder.vision_model.post_layernorm.weight', 'decoders.0.head.weight'];
  const check = (...frozen: string[]) => {
    new ParameterGroups({ frozen, noDecay: [] }).check(names);
  };
  check();
  check('encoder.*');
  check('{encoder.queries,decoders.*}');
  await assertRejects(() => { check('encoder.*', 'vision_model.*'); }, 'ERR_CONFIG', '"vision_model.*"', 'encoder.queries'); // prettier-ignore
  await assertRejects(() => { check('*'); }, 'ERR_CONFIG', 'every parameter'); // prettier-ignore
});

test.after(() => {
  rmSync(folder, { recursive: true, force: true });
});
test.run();
