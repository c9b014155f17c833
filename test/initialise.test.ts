// Making new weights: beside the event loop, cancellable between tensors, and the same for every number of threads.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { native, type NativeWeights } from '../src/bindings.js';
import { presets } from '../src/models/presets.js';
import { initialise } from '../src/models/initialise.js';
import { newSession } from '../src/models/model.js';
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

test('create() hears its signal', async () => {
  const error = await errorOf(() => OmniIdEncoder.create('h', { signal: AbortSignal.timeout(50) }));
  assert.is(error.name, 'TimeoutError');
  const reason = new Error('that is enough');
  const signal = AbortSignal.abort(reason);
  assert.is(await errorOf(() => OmniIdEncoder.create('nano', { signal })), reason);
});

test.run();
