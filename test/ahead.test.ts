// Work that is begun ahead: in order, so many at once, and nothing of it goes on when it has ended.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ahead, range } from '../src/data/ahead.js';
import { RenderedDataset } from '../src/data/rendered_dataset.js';
import { renderedPhotos } from '../src/data/rendered_photos.js';
import { renderedShards } from '../src/train/rendered_shards.js';
import { errorOf } from './support/errors.js';
import { scratchFolder } from './support/people.js';

const scratch = scratchFolder('ahead');
test.after(scratch.remove);

test('in order, so many at once, and none goes on when it has ended', async () => {
  let underWay = 0;
  let most = 0;
  let begun = 0;
  const bad = new Error('the seventh');
  const make = async (item: number): Promise<number> => {
    begun++;
    most = Math.max(most, ++underWay);
    // They end in another order than they begin.
    await new Promise((resolve) => setTimeout(resolve, (item * 7) % 5));
    underWay--;
    if (item === 7) throw bad;
    return 10 * item;
  };
  const take = async (count: number, until: number, signal?: AbortSignal): Promise<number[]> => {
    [most, begun] = [0, 0];
    const found: number[] = [];
    for await (const one of ahead(range(count), 3, make, signal)) if (found.push(one) === until) break;
    return found;
  };
  assert.equal(await take(6, Infinity), [0, 10, 20, 30, 40, 50]);
  assert.equal([most, begun, underWay], [3, 6, 0]);
  assert.equal(await take(0, Infinity), []);
  assert.equal(await take(6, 2), [0, 10]);
  assert.equal([begun, underWay], [4, 0]);
  // An error comes when its turn does.
  assert.equal(await take(20, 7), [0, 10, 20, 30, 40, 50, 60]);
  assert.is(await errorOf(() => take(20, Infinity)), bad);
  assert.equal([begun, underWay], [10, 0]);
  const reason = new Error('enough');
  assert.is(await errorOf(() => take(6, Infinity, AbortSignal.abort(reason))), reason);
  assert.is(begun, 0);
});

test('rendering that is aborted is over when it says so', async () => {
  const { read } = RenderedDataset.prototype; // eslint-disable-line @typescript-eslint/unbound-method
  let underWay = 0;
  RenderedDataset.prototype.read = function (...given) {
    underWay++;
    return read.apply(this, given).finally(() => underWay--);
  };
  const people = { identities: 12, views: 4, firstSeed: 0, size: 64 };
  const reason = new Error('enough');
  try {
    const shards = new AbortController();
    const onRender = (done: number): void => {
      if (done === 5) shards.abort(reason);
    };
    const error = await errorOf(() => renderedShards(scratch.at(), people, { signal: shards.signal, onRender })); // prettier-ignore
    assert.equal([error, underWay], [reason, 0]);
    const photos = new AbortController();
    const { size, ...of } = people;
    const taken = async (): Promise<void> => {
      let count = 0;
      for await (const { image } of renderedPhotos(new RenderedDataset(of), size, {
        signal: photos.signal,
      })) {
        assert.is(image.extension, 'png');
        if (++count === 5) photos.abort(reason);
      }
    };
    assert.equal([await errorOf(taken), underWay], [reason, 0]);
  } finally {
    RenderedDataset.prototype.read = read;
  }
});

test.run();
