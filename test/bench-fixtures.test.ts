// What the benchmarks keep for later runs is whole or not there.
import { readdirSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { benchFolder } from '../benchmarks/fixtures.js';
import { shardsFolder } from '../benchmarks/training/data_wait.js';
import { openDataset } from '../src/data/open_dataset.js';
import { RenderedDataset } from '../src/data/rendered_dataset.js';
import { errorOf } from './support/errors.js';
import { scratchFolder } from './support/people.js';

const scratch = scratchFolder('bench-fixtures');
test.after(scratch.remove);

test('shards of which the writing ended are made anew, and whole ones are used again', async () => {
  process.env['TMPDIR'] = scratch.at();
  const log: string[] = [];
  const make = (): Promise<string> => shardsFolder(28, { quick: true, log: (message) => log.push(message) });
  const { read } = RenderedDataset.prototype; // eslint-disable-line @typescript-eslint/unbound-method
  const full = new Error('no space left');
  RenderedDataset.prototype.read = function (...given) {
    return given[0] === 3 ? Promise.reject(full) : read.apply(this, given);
  };
  try {
    assert.is(await errorOf(make), full);
  } finally {
    RenderedDataset.prototype.read = read;
  }
  assert.equal(readdirSync(benchFolder()), []);
  const [one, two] = await Promise.all([make(), make()]);
  assert.is(one, two);
  assert.is(await make(), one);
  assert.is(log.length, 3);
  assert.is(readdirSync(benchFolder()).length, 1);
  const dataset = await openDataset(one);
  assert.equal([dataset.identities, dataset.photos(5)], [6, 4]);
  await dataset.close();
});

test.run();
