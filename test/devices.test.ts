// What devices there are and why not, and the CUDA backend from TypeScript: copies, repeated runs, refused indices, memory that runs out.
// With the addon whose CUDA device is the emulation (npm run test:cuda), and without one.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { native } from '../src/bindings.js';
import { devices, freeDeviceMemory, openDevice, type DeviceName } from '../src/graph/devices.js';
import { Graph } from '../src/graph/graph.js';
import { add, patchGather } from '../src/graph/operators.js';
import { Session, typed, type Place } from '../src/graph/session.js';
import { ClipVisionEncoder, DeviceError } from '../src/index.js';
import { assertRejects } from './support/errors.js';
import { golden } from './support/golden.js';

delete process.env['OMNI_ID_DEVICE'];
const { available, unavailable, cuda, emulated } = devices();
/** A test for a CUDA device, emulated or real. */
function onCuda(name: string, body: () => Promise<void>): void {
  if (cuda.length > 0) test(name, body);
  else test.skip(name, body);
}
console.log(`  devices: ${available.join(', ')}${emulated ? ' (emulated)' : ''}`);
for (const { device, reason } of unavailable) console.log(`  ${device} is not available: ${reason}`);

test('every device is available or has a reason', () => {
  assert.ok(available.includes('cpu'));
  assert.equal(new Set(available).size, available.length);
  assert.equal(
    available.filter((name) => name !== 'cpu'),
    cuda.map(({ device }) => device),
  );
  if (cuda.length === 0) assert.equal(unavailable[0]?.device, 'cuda');
  for (const { reason } of unavailable) assert.match(reason, /driver|device|nvcc|compute capability/);
  for (const one of cuda) {
    assert.match(one.computeCapability, /^\d+\.\d$/);
    assert.ok(one.memoryBytes > 0 && one.multiprocessors > 0 && one.name !== '');
  }
});

test('auto takes a CUDA device that is one, and never an emulated one', () => {
  const best = cuda.length > 0 && !emulated ? 'cuda' : 'cpu';
  assert.is(openDevice({}).describe().kind, best);
  assert.is(openDevice({ device: 'auto' }).describe().kind, best);
  assert.is(openDevice({ device: 'cpu' }).describe().kind, 'cpu');
  process.env['OMNI_ID_DEVICE'] = 'cpu';
  assert.is(openDevice({}).describe().kind, 'cpu');
  delete process.env['OMNI_ID_DEVICE'];
});

test('what a device can still give is its own memory less what was taken, and not the host’s', () => {
  assert.is(freeDeviceMemory({ device: 'cpu' }), undefined);
  for (const { device, memoryBytes } of cuda) {
    const taken = openDevice({ device }).memory().currentBytes;
    const free = freeDeviceMemory({ device }) ?? NaN;
    assert.is(free, memoryBytes - taken);
    const tensor = new Session(openDevice({ device }), new (native().Weights)()).tensor({ dtype: 'f32', shape: [1024] }); // prettier-ignore
    assert.ok((freeDeviceMemory({ device }) ?? NaN) <= free - 4096);
    tensor.dispose();
  }
});

test('a device that is not there is refused with the reason', async () => {
  const absent: DeviceName = `cuda:${cuda.length}`;
  await assertRejects(() => openDevice({ device: absent }), 'ERR_DEVICE_UNAVAILABLE', absent, '"cpu"');
  if (cuda.length === 0)
    await assertRejects(
      () => openDevice({ device: 'cuda' }),
      'ERR_DEVICE_UNAVAILABLE',
      unavailable[0]?.reason ?? 'a reason',
    );
  for (const unknown of ['gpu', 'cuda:', 'cuda:x', 'cuda:-1', 'cuda:01', 'CUDA', 'cuda:1 '])
    await assertRejects(
      () => openDevice({ device: unknown as DeviceName }),
      'ERR_INVALID_ARGUMENT',
      'cuda:1',
    );
});

test('a kernel that failed is a DeviceError', () => {
  const error = typed(Object.assign(new Error('kernels: an illegal access'), { code: 'ERR_DEVICE' }));
  assert.instance(error, DeviceError);
  assert.is((error as DeviceError).code, 'ERR_DEVICE');
});

/** Runs with y = a + b of n values, whose tensors stay. */
function sum(session: Session, n: number): (a: number, signal?: AbortSignal) => Promise<Float32Array> {
  const type = { dtype: 'f32', shape: [n] } as const;
  const places: Record<string, Place> = {};
  for (const name of ['a', 'b', 'y']) places[name] = { tensor: session.tensor(type), element: 0 };
  return async (a, signal) => {
    const plan = await session.plan(`sum ${n}`, () => {
      const graph = new Graph();
      graph.output('y', add(graph.input('a', 'f32', [n]), graph.input('b', 'f32', [n])));
      return graph;
    });
    places['a']?.tensor.write(new Float32Array(n).fill(a), 0);
    places['b']?.tensor.write(new Float32Array(n).fill(0.5), 0);
    await session.run(plan, places, signal);
    return places['y']?.tensor.read(0, n) as Float32Array;
  };
}

onCuda('runs with new values in the same tensors, and stops when told to', async () => {
  const session = new Session(openDevice({ device: 'cuda' }), new (native().Weights)());
  const run = sum(session, 100);
  for (let a = 0; a < 5; a++) assert.ok((await run(a)).every((y) => y === a + 0.5));
  const reason = new Error('enough');
  await run(1, AbortSignal.abort(reason)).then(
    () => {
      throw new Error('an aborted run ended well');
    },
    (error: unknown) => {
      assert.is(error, reason);
    },
  );
  assert.ok((await run(7)).every((y) => y === 7.5));
  session.dispose();
});

onCuda('indices that no image has are refused, in first and repeated runs', async () => {
  const session = new Session(openDevice({ device: 'cuda' }), new (native().Weights)());
  const plan = await session.plan('gather', () => {
    const graph = new Graph();
    const images = graph.input('images', 'f32', [1, 1, 2, 2]);
    graph.output('rows', patchGather(images, graph.input('visible', 'i32', [2]), { patch: 1 }));
    return graph;
  });
  const tensor = (dtype: 'f32' | 'i32', shape: number[]): Place => ({
    tensor: session.tensor({ dtype, shape }),
    element: 0,
  });
  const images = tensor('f32', [4]);
  const visible = tensor('i32', [2]);
  const rows = tensor('f32', [2]);
  images.tensor.write(Float32Array.of(1, 2, 3, 4), 0);
  for (let round = 0; round < 3; round++) {
    visible.tensor.write(Int32Array.of(1, 4), 0);
    await assertRejects(
      () => session.run(plan, { images, visible, rows }),
      'ERR_INVALID_ARGUMENT',
      'patch_gather',
    );
    visible.tensor.write(Int32Array.of(1, 3), 0);
    await session.run(plan, { images, visible, rows });
    assert.equal([...rows.tensor.read(0, 2)], [2, 4]);
  }
  session.dispose();
});

onCuda('memory that runs out is an error of its own, after which the device works on', async () => {
  const session = new Session(openDevice({ device: 'cuda' }), new (native().Weights)());
  const run = sum(session, 100);
  await assertRejects(() => session.tensor({ dtype: 'f32', shape: [2 ** 46] }), 'ERR_OUT_OF_MEMORY');
  assert.ok((await run(3)).every((y) => y === 3.5));
  session.dispose();
});

onCuda("the packed cache is the CPU's", async () => {
  const { folder } = await golden('clip_vision_gelu');
  await assertRejects(
    () => ClipVisionEncoder.load(folder, { device: 'cuda', packedCache: 'write' }),
    'ERR_INVALID_ARGUMENT',
    'packedCache',
    'cuda',
  );
});

test.run();
