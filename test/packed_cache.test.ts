// The packed cache: same tokens as without it, bound to what it was made from, silently renewed when stale.
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { OmniIdEncoder } from '../src/index.js';
import { packedCachePath } from '../src/io/packed_cache.js';
import { golden, tensorOf } from './support/golden.js';

const { folder: source, io } = await golden('omni_encoder');
const images = tensorOf(io, 'images_1');
const size = images.data.length / (images.shape[0] ?? 1);
const identities = Array.from({ length: images.shape[0] ?? 0 }, (_, i) => [
  images.data.slice(i * size, (i + 1) * size),
]);
const folder = mkdtempSync(join(tmpdir(), 'omni-id-cache-'));
for (const file of ['config.json', 'model.safetensors']) cpSync(join(source, file), join(folder, file));
const cache = packedCachePath(folder, 'bf16');

async function tokens(
  packedCache: 'use' | 'write' | 'ignore',
  dtype: 'f32' | 'bf16' = 'bf16',
): Promise<Float32Array> {
  await using model = await OmniIdEncoder.load(folder, { packedCache, dtype });
  return (await model.embed(identities)).data;
}

const expected = await tokens('ignore');

test('nothing is written unless asked for', async () => {
  assert.equal(await tokens('use'), expected);
  assert.not(existsSync(cache));
});

test('a written cache gives the same bits', async () => {
  assert.equal(await tokens('write'), expected);
  assert.ok(existsSync(cache));
  const written = statSync(cache).mtimeMs;
  assert.equal(await tokens('use'), expected);
  assert.is(statSync(cache).mtimeMs, written, 'a good cache is left alone');
  const f32 = await tokens('ignore', 'f32');
  assert.equal(await tokens('write', 'f32'), f32);
  assert.equal(await tokens('use', 'f32'), f32);
});

test('a touched source with the same bytes keeps the cache', async () => {
  const written = readFileSync(cache);
  utimesSync(join(folder, 'model.safetensors'), new Date(), new Date(0));
  assert.equal(await tokens('use'), expected);
  assert.ok(readFileSync(cache).equals(written));
});

test('other weights make it stale, and it is renewed', async () => {
  const path = join(folder, 'model.safetensors');
  const original = readFileSync(path);
  const changed = Buffer.from(original);
  for (let at = changed.length - 4; at > changed.length - 40_000; at -= 4)
    changed.writeFloatLE(changed.readFloatLE(at) * 1.5, at);
  writeFileSync(path, changed);
  const other = await tokens('ignore');
  assert.not.equal(other, expected);
  assert.equal(await tokens('use'), other, 'the stale cache is not used');
  assert.equal(await tokens('use'), other, 'the renewed one is');
  writeFileSync(path, original);
  assert.equal(await tokens('use'), expected);
});

test('a damaged cache is stale', async () => {
  const good = readFileSync(cache);
  for (const damage of [
    good.subarray(0, 100),
    good.subarray(0, good.length - 64),
    Buffer.alloc(0),
    Buffer.from('no cache at all'),
  ]) {
    writeFileSync(cache, damage);
    assert.equal(await tokens('use'), expected);
    assert.is(statSync(cache).size, good.length, 'it was renewed');
  }
});

test('a cache of another engine or layout is stale', async () => {
  const good = readFileSync(cache, 'latin1');
  for (const field of ['"layout":"', '"engine":"']) {
    const at = good.indexOf(field) + field.length;
    assert.ok(at > field.length);
    const changed = `${good.slice(0, at)}~${good.slice(at + 1)}`;
    writeFileSync(cache, changed, 'latin1');
    assert.equal(await tokens('use'), expected);
    assert.is(readFileSync(cache, 'latin1'), good, 'it was renewed');
  }
});

test.after(() => {
  rmSync(folder, { recursive: true, force: true });
});

test.run();
