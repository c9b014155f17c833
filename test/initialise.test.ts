// Making new weights: beside the event loop, cancellable between tensors, and the same for every number of threads.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { native, type NativeWeights } from '../src/bindings.js';
import { presets } from '../src/models/presets.js';
import { initialise, initialiseMtd } from '../src/models/initialise.js';
import { newSession } from '../src/models/model.js';
import { mtdWeights } from '../src/models/masked_transformer_decoder.js';
import { OmniIdEncoder, omniIdWeights } from '../src/models/omni_id_encoder.js';
import { errorOf } from './support/errors.js';

const shape = [1000, 2000];

async function made(threads: number): Promise<NativeWeights> {
  const weights = new (native().Weights)();
  const device = new (native().Device)('cpu', threads);
  await weights.setNormal(device, 'a', shape, 3, 0, 0.02, new (native().Cancellation)());
  return weights;
}

test('the event loop turns while weights are made', async () => {
  let turns = 0;
  const state = { done: false };
  const making = made(1).then(() => (state.done = true));
  while (!state.done) {
    await new Promise(setImmediate);
    turns++;
  }
  await making;
  // Two million numbers take tens of milliseconds: a call that blocks leaves one turn or two.
  assert.ok(turns > 20, `${turns} turns`);
});

test('the numbers do not depend on the threads', async () => {
  const [one, three] = [await made(1), await made(3)];
  assert.equal(one.read('a', 'f32', 0, 2_000_000), three.read('a', 'f32', 0, 2_000_000));
});

test('what is cancelled before its turn is not made', async () => {
  const weights = new (native().Weights)();
  const device = new (native().Device)('cpu', 1);
  const cancellation = new (native().Cancellation)();
  const first = weights.setNormal(device, 'first', shape, 3, 0, 0.02, new (native().Cancellation)());
  const second = weights.setNormal(device, 'second', shape, 3, 0, 0.02, cancellation);
  cancellation.cancel();
  await first;
  assert.is(((await errorOf(() => second)) as NodeJS.ErrnoException).code, 'ERR_ABORTED');
  assert.equal(weights.names(), ['first']);
});

test('bad arguments are refused before anything is queued', () => {
  const weights = new (native().Weights)();
  const device = new (native().Device)('cpu', 1);
  const cancellation = new (native().Cancellation)();
  assert.throws(() => weights.setNormal(weights as never, 'a', [1], 0, 0, 1, cancellation), /a Device/);
  assert.throws(() => weights.setNormal(device, 'a', [-1], 0, 0, 1, cancellation), /negative/);
  assert.throws(() => weights.setNormal(device, 'a', [1], -1, 0, 1, cancellation), /seed/);
  assert.throws(() => weights.setNormal(device, 'a', [1], 0, 0, 1, {} as never), /a Cancellation/);
  weights.dispose();
  assert.throws(() => weights.setNormal(device, 'a', [1], 0, 0, 1, cancellation), /dispose/);
});

test('an aborted model is left between tensors, with the reason of its signal', async () => {
  const session = newSession({ threads: 1 });
  const config = presets.nano;
  const expected = omniIdWeights(config);
  const controller = new AbortController();
  const making = initialise(session, config, expected, 1, controller.signal);
  setTimeout(() => {
    controller.abort(new Error('that is enough'));
  }, 5);
  try {
    await making;
    assert.unreachable('it was aborted');
  } catch (error) {
    assert.is((error as Error).message, 'that is enough');
  }
  assert.ok(session.weights.names().length < expected.size);
  session.dispose();
});

/** Mean and standard deviation of a new weight. */
function moments(weights: NativeWeights, name: string): [mean: number, deviation: number] {
  const count = weights.type(name).shape.reduce((product, n) => product * n, 1);
  const bytes = weights.read(name, 'f32', 0, count);
  const values = new Float32Array(bytes.buffer, bytes.byteOffset, count);
  const mean = values.reduce((sum, value) => sum + value, 0) / count;
  return [mean, Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / count)];
}

test('new weights have the deviations of their kind, and no two of a pair are alike', async () => {
  const encoder = newSession({ threads: 2 });
  const decoder = newSession({ threads: 2 });
  const { signal } = new AbortController();
  const config = presets.nano;
  const { hiddenSize, numHiddenLayers } = config.vision;
  await initialise(encoder, config, omniIdWeights(config), 1, signal);
  const sizes = { imageSize: 112, patchSize: 14, width: 384, heads: 6, mlpRatio: 4, crossBlocks: 2, selfBlocks: 2, layerNormEps: 1e-5 }; // prettier-ignore
  await initialiseMtd(
    decoder,
    sizes,
    mtdWeights({
      ...sizes,
      tokenWidth: config.width,
      maskRatio: 0.95,
      imageMean: [0, 0, 0],
      imageStd: [1, 1, 1],
    }),
    1,
    signal,
  );
  const deep = 1 / Math.sqrt(2 * numHiddenLayers);
  const expected: [store: NativeWeights, name: string, deviation: number][] = [
    [encoder.weights, 'queries', 1],
    [encoder.weights, 'vision_model.embeddings.position_embedding.weight', 1],
    [encoder.weights, 'vision_model.embeddings.patch_embedding.weight', 0.02],
    [encoder.weights, 'vision_model.encoder.layers.0.self_attn.q_proj.weight', deep / Math.sqrt(hiddenSize)],
    [encoder.weights, 'vision_model.encoder.layers.0.mlp.fc1.weight', 1 / Math.sqrt(2 * hiddenSize)],
    [encoder.weights, 'cross_blocks.0.attn.to_k.weight', 1 / Math.sqrt(hiddenSize)],
    [encoder.weights, 'cross_blocks.0.attn.to_out.weight', 1 / Math.sqrt(8 * config.width)],
    [decoder.weights, 'head.weight', 0.02],
    [decoder.weights, 'cross_blocks.0.attn.to_k.weight', 1 / Math.sqrt(384)],
    [decoder.weights, 'pos_embed', Math.SQRT1_2],
  ];
  for (const [store, name, deviation] of expected) {
    const [mean, found] = moments(store, name);
    // Positions are sines and cosines, whose mean is not 0.
    if (name !== 'pos_embed') assert.ok(Math.abs(mean) < 0.03 * deviation, `${name}: mean ${mean}`);
    const close = name === 'pos_embed' ? 0.35 : 0.03;
    assert.ok(Math.abs(found / deviation - 1) < close, `${name}: ${found}, expected ${deviation}`);
  }
  const seen = new Map<string, string>();
  for (const [kind, store] of [
    ['encoder', encoder.weights],
    ['decoder', decoder.weights],
  ] as const) {
    for (const name of store.names()) {
      const { shape } = store.type(name);
      if (shape.length < 2 || name === 'pos_embed') continue;
      const first = Buffer.from(store.read(name, 'f32', 0, 16)).toString('hex');
      assert.is(seen.get(first), undefined, `${kind} ${name} begins as ${seen.get(first)}`);
      seen.set(first, `${kind} ${name}`);
    }
  }
  encoder.dispose();
  decoder.dispose();
});

test('create() hears its signal', async () => {
  const error = await errorOf(() => OmniIdEncoder.create('h', { signal: AbortSignal.timeout(50) }));
  assert.is(error.name, 'TimeoutError');
  const reason = new Error('that is enough');
  const signal = AbortSignal.abort(reason);
  assert.is(await errorOf(() => OmniIdEncoder.create('nano', { signal })), reason);
});

test.run();
