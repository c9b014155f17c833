// What a run takes is known before it takes it, and a run that fails before its first step leaves nothing behind.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { CachedDataset } from '../src/data/cached_dataset.js';
import { RenderedDataset } from '../src/data/rendered_dataset.js';
import { ShardDataset } from '../src/data/webdataset.js';
import { openDevice } from '../src/graph/devices.js';
import { HeldOut } from '../src/train/held_out.js';
import { writeInitialWeights } from '../src/train/initial_weights.js';
import { checkDisk, diskNeeds } from '../src/train/disk.js';
import { checkActivations, checkMemory, largestShape, memoryNeeds } from '../src/train/memory.js';
import { decodersOf, openEngine, stepModel } from '../src/train/run_parts.js';
import { assertRejects, errorOf } from './support/errors.js';
import { cleanUp, logOf, newRun, run, tinyConfig } from './support/tiny_run.js';

test.after(cleanUp);

/** Counts the reads that are under way whenever shards are closed, while `body` runs. */
async function underWayAtClose(body: () => Promise<unknown>): Promise<number[]> {
  const { read, close } = ShardDataset.prototype; // eslint-disable-line @typescript-eslint/unbound-method
  let underWay = 0;
  const found: number[] = [];
  ShardDataset.prototype.read = async function (...given) {
    underWay++;
    // Longer than a run takes to close.
    await new Promise((resolve) => setTimeout(resolve, 50));
    return read.apply(this, given).finally(() => underWay--);
  };
  ShardDataset.prototype.close = function () {
    found.push(underWay);
    return close.apply(this);
  };
  try {
    await body();
    return found;
  } finally {
    Object.assign(ShardDataset.prototype, { read, close });
  }
}

test('a run that fails while its first step is prepared leaves no read, no memory and no photo out', async () => {
  await run(['steps=1']);
  const memory = (): number => openDevice({ device: 'cpu', threads: 1 }).memory().currentBytes;
  const before = memory();
  const folder = newRun();
  const full = new Error('no memory left');
  let printed = '';
  const onLine = (line: string): void => {
    if (line.startsWith('memory:')) throw full;
    printed += line;
  };
  const found = await underWayAtClose(async () => {
    assert.is(await errorOf(() => run([], { folder, onLine })), full);
  });
  assert.equal(found, [0]);
  assert.is(memory(), before);
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.not.match(printed, 'left out');
  assert.equal(logOf(folder, 'unreadable'), []);
});

test('more memory than there is: told before anything is made', async () => {
  const folder = newRun();
  const huge = ['sampling.identities=65536', 'sampling.inputs=4096', 'sampling.targets=4096'];
  await assertRejects(() => run(huge, { folder }), 'ERR_OUT_OF_MEMORY', 'training needs about', 'available are', 'checkpointing'); // prettier-ignore
  assert.not.ok(existsSync(folder));

  // The estimate is what the engine takes.
  for (const settings of [[], ['optimizer.emaDecay=null', 'accumulation=2', 'sampling.inputs=[1,3]']]) {
    const config = tinyConfig(settings);
    const needs = await memoryNeeds(config, stepModel(config, decodersOf(config)));
    const engine = openEngine(config, decodersOf(config));
    const kind = { gradients: 'new', update: false, show: false } as const;
    assert.is(needs.state, 4 * engine.layout.size * (engine.state.vectors.length + 1));
    assert.is(needs.checkpoint, 4 * engine.layout.size * engine.state.vectors.length);
    assert.is(needs.activations, await engine.arenaBytes(largestShape(config), kind));
    engine.dispose();
  }
});

test('more on disk than there is: told before anything is made', async () => {
  const needs = { parameters: 7e6, checkpoint: 1e9 };
  // Two last ones, the best one, and one that is written before another goes; the model.
  assert.is(diskNeeds(needs, { keepLast: 2, best: true, stored: 0 }), 4.028e9);
  assert.is(diskNeeds(needs, { keepLast: 2, best: false, stored: 1 }), 2.028e9);
  assert.is(diskNeeds(needs, { keepLast: 2, best: true, stored: 9 }), 1.028e9);
  await checkDisk('runs/new', 4e9, 4e9);
  await checkDisk(join(newRun(), 'not/there/yet'), 1);
  const folder = newRun();
  await assertRejects(() => checkDisk(folder, 4e9, 3.9e9), 'ERR_FILE', folder, 'need 4.00 GB', '3.90 GB are free', 'keepLast'); // prettier-ignore
  await assertRejects(() => checkDisk(folder, 1e18), 'ERR_FILE', 'are free');
});

test('what lies on the device is compared with its memory, photos that are made ready with the host’s', async () => {
  const needs = { parameters: 7e6, state: 100e9, checkpoint: 80e9, initialisation: 20e9, activations: 13e9, tensors: 4e9, photos: 2e9 }; // prettier-ignore
  const fits = (host: number, device?: number, changed: Partial<typeof needs> = {}): void => {
    checkMemory({ ...needs, ...changed }, { host, device });
  };
  const refused = (body: () => void, ...words: string[]) =>
    assertRejects(body, 'ERR_OUT_OF_MEMORY', ...words);
  // The CPU computes in the host's: the first values of weights are gone before the first step.
  fits(120e9);
  await refused(() => { fits(119.9e9); }, '120.00 GB', 'available are 119.90 GB: ', '7 million parameters', 'photos 6.00 GB'); // prettier-ignore
  await refused(() => { fits(120e9, undefined, { activations: 15e9 }); }, '121.00 GB'); // prettier-ignore
  fits(20e9, 117e9);
  await refused(() => { fits(1e15, 116.9e9); }, '117.00 GB', 'available are 116.90 GB on the device', 'photos 4.00 GB', 'checkpointing'); // prettier-ignore
  await refused(() => { fits(19.9e9, 1e15); }, '20.00 GB of the host', 'available are 19.90 GB', 'photos 2.00 GB', 'data.prefetch'); // prettier-ignore
  await refused(() => { fits(20e9, 1e15, { photos: 21e9 }); }, '21.00 GB of the host', 'new weights 20.00 GB'); // prettier-ignore
  checkActivations(5e9, { host: 5e9, device: undefined });
  await refused(() => { checkActivations(5e9, { host: 4e9, device: undefined }); }, '5.00 GB', '4.00 GB: '); // prettier-ignore
  checkActivations(5e9, { host: 0, device: 5e9 });
  await refused(() => { checkActivations(5e9, { host: 1e15, device: 4e9 }); }, '5.00 GB', '4.00 GB on the device'); // prettier-ignore
});

test('held-out people are no more at once than a micro-batch, and counted', async () => {
  const settings = ['sampling.identities=4', 'accumulation=2', 'data.heldOut.identities=8'];
  const config = tinyConfig(settings);
  const decoders = decodersOf(config);
  const needs = await memoryNeeds(config, stepModel(config, decoders));
  const without = tinyConfig([...settings, 'data.heldOut.identities=0']);
  const trained = await memoryNeeds(without, stepModel(without, decoders));
  const engine = openEngine(config, decoders);
  await writeInitialWeights(config, engine, new AbortController().signal);
  const memory = (): number => engine.session.device.memory().currentBytes;
  const run = engine.run.bind(engine);
  const shapes = new Set<string>();
  engine.run = (shape, ...rest) => {
    shapes.add(JSON.stringify(shape));
    return run(shape, ...rest);
  };
  const dataset = new CachedDataset(new RenderedDataset({ identities: 8, views: 9 }), Infinity);
  const before = memory();
  const heldOut = new HeldOut(config, engine, dataset, () => { assert.unreachable(); }); // prettier-ignore
  const tensors = memory() - before;
  assert.ok(Number.isFinite(await heldOut.loss()));
  await heldOut.draw();
  assert.equal([...shapes], [JSON.stringify({ identities: 2, photos: 4, targets: 6 })]);
  assert.is(largestShape(config).identities, 2);
  assert.ok((await heldOut.arenaBytes()) <= needs.activations);
  // Beside the photos, tensors hold a few patch numbers and the like.
  const told = needs.tensors - trained.tensors;
  assert.ok(Math.abs(told - tensors) < 0.02 * tensors, `${told} bytes were told, ${tensors} are taken`);
  const batches = 3 * 2 * 28 ** 2 * (3 * 2 + 4 * 3);
  assert.is(needs.photos - trained.photos - batches, dataset.cachedBytes);
  heldOut.dispose();
  engine.dispose();
});

test.run();
