// Profiles of plans and measured peaks: what the benchmark judges speed by.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { native } from '../src/bindings.js';
import { OmniIdEncoder } from '../src/index.js';
import { errorOf } from './support/errors.js';
import { golden } from './support/golden.js';
import { procedural } from './support/procedural.js';

const { folder } = await golden('omni_encoder');

test('a profiled call gives the same tokens, and names every operator with its time and flops', async () => {
  await using encoder = await OmniIdEncoder.load(folder, { dtype: 'f32' });
  const { vision } = encoder.config;
  const photo = procedural('photo', 3 * vision.imageSize ** 2, 0, 1.5);
  const expected = await encoder.embed([[photo, photo]]);
  const { result, steps } = await encoder.profile(() => encoder.embed([[photo, photo]]));
  assert.equal(result.data, expected.data);
  const used = ['attention', 'concat_rows', 'layer_norm', 'linear', 'patch_embedding'];
  assert.equal([...new Set(steps.map(({ op }) => op))].sort(), used);
  for (const { seconds, bytes } of steps) assert.ok(seconds > 0 && bytes > 0);
  // The first projection of the MLP of every layer: 2 · rows · width · hidden.
  const tokens = 2 * (1 + Math.floor(vision.imageSize / vision.patchSize) ** 2);
  const { hiddenSize, intermediateSize, numHiddenLayers } = vision;
  const first = steps.filter(
    ({ op, outputs }) =>
      op === 'linear' && outputs[0]?.shape[0] === tokens && outputs[0].shape[1] === intermediateSize,
  );
  assert.is(first.length, numHiddenLayers);
  for (const { flops, attributes } of first) {
    assert.is(flops, 2 * tokens * hiddenSize * intermediateSize);
    assert.is(attributes['activation'], vision.hiddenAct);
  }
});

test('a profile ends with its call, also when that fails', async () => {
  await using encoder = await OmniIdEncoder.load(folder, { dtype: 'f32' });
  const failure = new Error('mine');
  let thrown: unknown;
  try {
    await encoder.profile(() => Promise.reject(failure));
  } catch (error) {
    thrown = error;
  }
  assert.is(thrown, failure);
  const { steps } = await encoder.profile(() => Promise.resolve());
  assert.is(steps.length, 0);
});

test('every instruction set has a peak in f32 and reads memory', async () => {
  for (const isa of native().instructionSets()) {
    const device = new (native().Device)('cpu', 1, isa);
    for (const what of ['f32', 'memoryRead'] as const) {
      const rate = await device.measurePeak(what, 0.02);
      assert.ok(rate > 1e7 && Number.isFinite(rate), `${isa} ${what}: ${rate}`);
    }
    const bf16 = await device.measurePeak('bf16', 0.02);
    assert.is(bf16 > 0, isa.endsWith('bf16'), `${isa} bf16: ${bf16}`);
  }
});

test('an unknown peak is refused', async () => {
  const device = new (native().Device)('cpu', 1);
  const error = await errorOf(() => device.measurePeak('f64' as 'f32', 0.01));
  assert.is((error as Error & { code?: string }).code, 'ERR_INVALID_ARGUMENT');
  assert.match(error.message, 'memoryRead');
});

test('bf16 tensors are written and read as rounded floats', () => {
  const tensor = new (native().Tensor)(new (native().Device)('cpu', 1), { dtype: 'bf16', shape: [4] });
  tensor.write(Float32Array.of(1, -2.5, 1 + 2 ** -9, 3.140625), 0);
  assert.equal(tensor.read(0, 4), Float32Array.of(1, -2.5, 1, 3.140625));
  tensor.dispose();
});

test.run();
