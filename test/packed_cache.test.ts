// The packed cache: same tokens as without it, bound to what it was made from, silently renewed when stale.
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { native } from '../src/bindings.js';
import { OmniIdEncoder } from '../src/index.js';
import { openCheckpoint, registerWeights } from '../src/io/checkpoint.js';
import { mapPackedCache, packedCachePath, writePackedCache } from '../src/io/packed_cache.js';
import { loadWeights, newSession } from '../src/models/model.js';
import { assertSameBits } from './support/assert_close.js';
import { assertRejects, errorOf } from './support/errors.js';
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

/** Where the weights begin in a safetensors file. */
const dataBegin = (bytes: Buffer): number => 8 + Number(bytes.readBigUInt64LE(0));

const expected = await tokens('ignore');

test('nothing is written unless asked for', async () => {
  assertSameBits(await tokens('use'), expected, 'tokens');
  assert.not(existsSync(cache));
});

test('a written cache gives the same bits', async () => {
  assertSameBits(await tokens('write'), expected, 'tokens');
  assert.ok(existsSync(cache));
  const written = statSync(cache).mtimeMs;
  assertSameBits(await tokens('use'), expected, 'tokens');
  assert.is(statSync(cache).mtimeMs, written, 'a good cache is left alone');
  const f32 = await tokens('ignore', 'f32');
  assertSameBits(await tokens('write', 'f32'), f32, 'f32');
  assertSameBits(await tokens('use', 'f32'), f32, 'f32');
});

test('a touched source with the same bytes keeps the cache', async () => {
  const written = readFileSync(cache);
  utimesSync(join(folder, 'model.safetensors'), new Date(), new Date(0));
  assertSameBits(await tokens('use'), expected, 'tokens');
  assert.ok(readFileSync(cache).equals(written));
});

test('other weights make it stale, and it is renewed', async () => {
  const path = join(folder, 'model.safetensors');
  const original = readFileSync(path);
  const changed = Buffer.from(original);
  for (let at = dataBegin(changed); at < changed.length; at += 4)
    changed.writeFloatLE(changed.readFloatLE(at) * 1.5, at);
  writeFileSync(path, changed);
  const other = await tokens('ignore');
  assert.not.equal(other, expected);
  assertSameBits(await tokens('use'), other, 'the stale cache is not used');
  assertSameBits(await tokens('use'), other, 'the renewed one is');
  writeFileSync(path, original);
  assertSameBits(await tokens('use'), expected, 'tokens');
});

test('other weights of the same size and modification time make it stale', async () => {
  const path = join(folder, 'model.safetensors');
  const original = readFileSync(path);
  const longAgo = new Date(1e12);
  utimesSync(path, longAgo, longAgo);
  rmSync(cache);
  assertSameBits(await tokens('write'), expected, 'with a new cache');
  const changed = Buffer.from(original);
  changed.fill(0, dataBegin(changed));
  // In place, and as another file that takes its name: what `rsync -t` and `cp -p` do.
  for (const replace of [
    (bytes: Buffer) => {
      writeFileSync(path, bytes);
    },
    (bytes: Buffer) => {
      writeFileSync(`${path}.new`, bytes);
      renameSync(`${path}.new`, path);
    },
  ]) {
    replace(changed);
    utimesSync(path, longAgo, longAgo);
    const other = await tokens('ignore');
    assert.not.equal(other, expected);
    assertSameBits(await tokens('use'), other, 'the stale cache is not used');
    replace(original);
    utimesSync(path, longAgo, longAgo);
    assertSameBits(await tokens('use'), expected, 'nor the one made from the other weights');
  }
});

/** Everything that `OmniIdEncoder.load` does with weights, and what happens while they are packed. */
async function loadWhile(
  packedCache: 'use' | 'write',
  meanwhile: () => void,
  signal?: AbortSignal,
): Promise<void> {
  const session = newSession({});
  try {
    await loadWeights(session, folder, await openCheckpoint(folder), {}, { packedCache, signal }, () => {
      meanwhile();
      return Promise.resolve();
    });
  } finally {
    session.dispose();
  }
}

test('no cache is made of weights that are replaced while they are read', async () => {
  const path = join(folder, 'model.safetensors');
  const original = readFileSync(path);
  const replace = (): void => {
    writeFileSync(`${path}.new`, original);
    renameSync(`${path}.new`, path);
  };
  rmSync(cache);
  await assertRejects(() => loadWhile('write', replace), 'ERR_FILE', path, 'changed while it was read');
  assert.not(existsSync(cache));
  // A stale one is not renewed then; loading goes on, as it has what it mapped.
  writeFileSync(cache, 'stale');
  await loadWhile('use', replace);
  assert.is(readFileSync(cache, 'utf8'), 'stale');
  // Replaced between reading the header and mapping the weights: a cache that fits neither or both is not asked.
  rmSync(cache);
  await loadWhile('write', () => undefined);
  const source = await openCheckpoint(folder);
  replace();
  const weights = new (native().Weights)();
  registerWeights(weights, source);
  assert.is(await mapPackedCache(cache, weights, {}, source), 'stale');
  weights.dispose();
  rmSync(cache);
  assertSameBits(await tokens('write'), expected, 'with a cache of the encoder again');
});

test('loading that is aborted rejects with the reason and leaves no cache', async () => {
  const before = readdirSync(folder).sort();
  const good = readFileSync(cache);
  rmSync(cache);
  const reason = new Error('enough');
  const early = OmniIdEncoder.load(folder, { packedCache: 'write', signal: AbortSignal.abort(reason) });
  assert.is(await errorOf(() => early), reason);
  const controller = new AbortController();
  const abort = (): void => {
    controller.abort(reason);
  };
  assert.is(await errorOf(() => loadWhile('write', abort, controller.signal)), reason);
  // And while the cache is being written.
  const source = await openCheckpoint(folder);
  const weights = new (native().Weights)();
  registerWeights(weights, source);
  const late = new AbortController();
  const writing = writePackedCache(cache, weights, {}, source, { signal: late.signal });
  late.abort(reason);
  assert.is(await errorOf(() => writing), reason);
  weights.dispose();
  writeFileSync(cache, good);
  assert.equal(readdirSync(folder).sort(), before);
});

test('a cache that does not list its sources is stale', async () => {
  const good = readFileSync(cache, 'latin1');
  const at = good.indexOf('"sources":"') + '"sources":"'.length;
  const end = good.indexOf(']"', at) + 1;
  for (const other of ['null', '[null]', '[{}]', '7', '{']) {
    writeFileSync(cache, good.slice(0, at) + other.padEnd(end - at) + good.slice(end), 'latin1');
    assertSameBits(await tokens('use'), expected, other);
    assert.is(readFileSync(cache).length, good.length, 'it was renewed');
  }
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
    assertSameBits(await tokens('use'), expected, 'tokens');
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
    assertSameBits(await tokens('use'), expected, 'tokens');
    assert.is(readFileSync(cache, 'latin1'), good, 'it was renewed');
  }
});

test.after(() => {
  rmSync(folder, { recursive: true, force: true });
});

test.run();
