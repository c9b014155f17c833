// What a run takes is known before it takes it, and a run that fails before its first step leaves nothing behind.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ShardDataset } from '../src/data/webdataset.js';
import { openDevice } from '../src/graph/devices.js';
import { errorOf } from './support/errors.js';
import { cleanUp, logOf, newRun, run } from './support/tiny_run.js';

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

test.run();
