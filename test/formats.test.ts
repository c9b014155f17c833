// The safetensors format: every kind of broken header, round trips, sharded checkpoints, and writing that leaves nothing half done.
import { constants } from 'node:buffer';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { openCheckpoint } from '../src/io/checkpoint.js';
import { jsonTokens } from '../src/io/json_tokens.js';
import { writeNpy } from '../src/io/npy.js';
import { readSafetensors, readSafetensorsHeader } from '../src/io/safetensors.js';
import { writeSafetensors, type TensorSource } from '../src/io/safetensors_writer.js';
import { assertRejects, errorOf } from './support/errors.js';

const folder = mkdtempSync(join(tmpdir(), 'omni-id-formats-'));

/** A file with this header text and this many bytes of data. */
function file(header: string | Uint8Array, dataBytes: number, length?: bigint): string {
  const json = typeof header === 'string' ? Buffer.from(header) : header;
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(length ?? BigInt(json.byteLength));
  const path = join(folder, 'case.safetensors');
  writeFileSync(path, Buffer.concat([head, json, Buffer.alloc(dataBytes)]));
  return path;
}

const a = '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}';
const tensor = (dtype: string, shape: string, offsets: string): string =>
  `{"a":{"dtype":${dtype},"shape":${shape},"data_offsets":${offsets}}}`;

const broken: [what: string, header: string | Uint8Array, dataBytes: number, word: string, length?: bigint][] = [
  ['a length past the end', `{${a}}`, 8, 'a header of 1000 bytes', 1000n],
  ['a length past the limit', `{${a}}`, 8, 'at most 100000000', 1n << 60n],
  ['a length that is negative when signed', `{${a}}`, 8, 'at most', (1n << 64n) - 1n],
  ['an empty header', '', 0, 'begin with {'],
  ['a header that is not UTF-8', Buffer.from([0x7b, 0xff, 0xfe, 0x7d]), 0, 'UTF-8'],
  ['a header that begins with a space', ` {${a}}`, 8, 'begin with {'],
  ['a header that is not JSON', '{"a":}', 0, 'JSON'],
  ['a cut header', `{${a}`, 8, 'JSON'],
  ['a comment', `{${a}/* */}`, 8, 'JSON'],
  ['a trailing comma', `{${a},}`, 8, 'JSON'],
  ['the same tensor twice', `{${a},${a}}`, 8, '"a" occurs twice'],
  ['the same field twice', '{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8, '"dtype" occurs twice'],
  ['metadata twice', `{"__metadata__":{},"__metadata__":{},${a}}`, 8, '"__metadata__" occurs twice'],
  ['metadata that is no object', `{"__metadata__":[],${a}}`, 8, '__metadata__'],
  ['metadata that is no text', `{"__metadata__":{"x":1},${a}}`, 8, '__metadata__.x'],
  ['a tensor that is no object', '{"a":[]}', 0, 'tensor "a"'],
  ['an unknown dtype', tensor('"F33"', '[2]', '[0,8]'), 8, '"F33"'],
  ['a dtype that is a property of objects', tensor('"toString"', '[2]', '[0,8]'), 8, '"toString"'],
  ['a dtype that is no text', tensor('7', '[2]', '[0,8]'), 8, 'dtype 7'],
  ['no dtype', '{"a":{"shape":[2],"data_offsets":[0,8]}}', 8, 'dtype'],
  ['a negative shape', tensor('"F32"', '[-2]', '[0,8]'), 8, '"-2" in its shape'],
  ['a fractional shape', tensor('"F32"', '[0.5]', '[0,8]'), 8, '"0.5" in its shape'],
  ['a shape that is no array', tensor('"F32"', '2', '[0,8]'), 8, 'shape 2'],
  ['a shape that overflows', tensor('"F32"', '[4294967296,4294967296,4294967296]', '[0,8]'), 8, 'needs'],
  ['a number too large to be exact', tensor('"F32"', '[9007199254740993]', '[0,8]'), 8, 'shape'],
  ['no offsets', '{"a":{"dtype":"F32","shape":[2]}}', 8, 'data_offsets'],
  ['three offsets', tensor('"F32"', '[2]', '[0,8,9]'), 8, 'data_offsets'],
  ['offsets the wrong way round', tensor('"F32"', '[2]', '[8,0]'), 8, 'bytes 8 to 0'],
  ['offsets past the end', tensor('"F32"', '[4]', '[0,16]'), 8, 'bytes 0 to 16 of 8'],
  ['too few bytes for the shape', tensor('"F32"', '[3]', '[0,8]'), 8, 'needs 12 bytes but has 8'],
  ['a gap', '{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[3],"data_offsets":[5,8]}}', 8, 'gap'],
  ['an overlap', '{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[5],"data_offsets":[3,8]}}', 8, 'overlap'],
  ['a gap at the start', tensor('"U8"', '[4]', '[4,8]'), 8, 'gap'],
  ['bytes that belong to no tensor', `{${a}}`, 9, '1 bytes after the last tensor'],
  ['half bytes', tensor('"F4"', '[3]', '[0,2]'), 2, 'needs 12 bits'],
  ['a shape in decimals', tensor('"F32"', '[2.0]', '[0,8]'), 8, '"2.0" in its shape'],
  ['a shape with an exponent', tensor('"F32"', '[2e0]', '[0,8]'), 8, '"2e0" in its shape'],
  ['a shape of minus nothing', tensor('"F32"', '[-0]', '[0,0]'), 0, '"-0" in its shape'],
  ['offsets in decimals', tensor('"F32"', '[2]', '[0.0,8]'), 8, '"0.0" in its data_offsets'],
  ['offsets with an exponent', tensor('"F32"', '[2]', '[0,8e0]'), 8, '"8e0" in its data_offsets'],
  ['arrays in arrays', tensor('"F32"', '['.repeat(20_000) + ']'.repeat(20_000), '[0,8]'), 8, 'nested deeper than 3'],
  ['objects in objects', tensor('"F32"', '{"a":'.repeat(20_000) + '1' + '}'.repeat(20_000), '[0,8]'), 8, 'nested deeper than 3'],
  ['arrays that never end', `{"a":${'['.repeat(20_000)}`, 8, 'nested deeper than 3'],
  ['nesting in metadata', `{"__metadata__":{"x":[[0]]},${a}}`, 8, 'nested deeper than 3'],
]; // prettier-ignore

test('every kind of broken header is an ERR_FORMAT that says what is wrong', async () => {
  for (const [what, header, dataBytes, word, length] of broken) {
    const path = file(header, dataBytes, length);
    await assertRejects(() => readSafetensorsHeader(path), 'ERR_FORMAT', 'case.safetensors', word).catch(
      (error: unknown) => {
        throw new Error(`${what}: ${String(error)}`, { cause: error });
      },
    );
  }
  for (const bytes of [0, 1, 7]) {
    writeFileSync(join(folder, 'short.safetensors'), Buffer.alloc(bytes));
    await assertRejects(
      () => readSafetensorsHeader(join(folder, 'short.safetensors')),
      'ERR_FORMAT',
      `${bytes} bytes`,
    );
  }
  await assertRejects(() => readSafetensorsHeader(join(folder, 'gone')), 'ERR_FILE', 'gone');
  await assertRejects(() => readSafetensorsHeader(folder), 'ERR_FILE');
});

test('headers that are unusual and right', async () => {
  assert.is((await readSafetensorsHeader(file('{}', 0))).tensors.size, 0);
  assert.is((await readSafetensorsHeader(file(`{${a}}   `, 8))).tensors.size, 1);
  const proto = await readSafetensorsHeader(
    file('{"__proto__":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', 1),
  );
  assert.equal(proto.tensors.get('__proto__')?.shape, []);
  const empty =
    '{"b":{"dtype":"F32","shape":[0,7],"data_offsets":[8,8]},"__metadata__":{"format":"pt"},' + a + '}';
  const header = await readSafetensorsHeader(file(empty, 8));
  assert.equal([...header.tensors.keys()], ['a', 'b']);
  assert.is(header.metadata.get('format'), 'pt');
});

test('long shapes and long names neither take long nor make long messages', async () => {
  const long = (n: string): string => `[${Array(50_000).fill(n).join()}]`;
  for (const [header, word] of [
    [tensor('"U8"', long('4294967295'), '[0,8]'), 'needs more than any file has'],
    [tensor('"U8"', long('1'), '[0,8]'), 'needs 1 bytes'],
    [tensor('"U8"', long('"x"'), '[0,8]'), 'expected whole numbers'],
    [tensor('"U8"', '[8]', long('9')), 'data_offsets'],
    [tensor(`"${'F'.repeat(50_000)}"`, '[8]', '[0,8]'), 'unknown dtype'],
    [`{"${'n'.repeat(50_000)}":[]}`, 'is not an object'],
  ] as const) {
    const path = file(header, 8);
    const started = performance.now();
    const { message } = await assertRejects(() => readSafetensorsHeader(path), 'ERR_FORMAT', word);
    const tookMs = performance.now() - started;
    assert.ok(tookMs < 1000, `${word}: ${tookMs} ms`);
    assert.ok(message.length < 600, message.slice(0, 1000));
  }
  // A dimension of 0 makes a tensor empty, whatever the others are.
  const empty = tensor('"U8"', '[4294967295,4294967295,4294967295,0]', '[0,0]');
  assert.is((await readSafetensorsHeader(file(empty, 0))).tensors.get('a')?.byteLength, 0);
});

test('what the format does not name may be anything flat', async () => {
  const extra = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"scale":-1.5e3,"note":"[[[[{{{{\\""}}';
  assert.is((await readSafetensorsHeader(file(extra, 8))).tensors.size, 1);
});

function source(name: string, shape: number[], values: Float32Array): TensorSource {
  const bytes = new Uint8Array(values.buffer);
  return {
    name,
    dtype: 'F32',
    shape,
    byteLength: bytes.length,
    read: (first, count) => bytes.subarray(first, first + count),
  };
}

test('what is written is read back to the bit', async () => {
  const odd = new Float32Array(new Uint32Array([0x80000000, 0x7fc12345, 0xff800000, 1]).buffer);
  const path = join(folder, 'written.safetensors');
  const tensors = [
    source('é/名', [4], odd),
    source('none', [0, 3], new Float32Array(0)),
    source('one', [], new Float32Array([7])),
  ];
  for (const alignment of [8, 64]) {
    await writeSafetensors(path, tensors, { metadata: { a: 'b' }, alignment });
    const header = await readSafetensorsHeader(path);
    assert.equal([...header.tensors.keys()], ['é/名', 'none', 'one']);
    assert.is((header.tensors.get('é/名')?.byteOffset ?? 1) % alignment, 0);
    const back = await readSafetensors(path);
    assert.equal(new Uint8Array(back.get('é/名')?.data.buffer as ArrayBuffer), new Uint8Array(odd.buffer));
    assert.equal(back.get('one')?.shape, []);
  }
});

test('a write that fails leaves the old file and nothing else', async () => {
  const path = join(folder, 'kept.safetensors');
  await writeSafetensors(path, [source('a', [1], new Float32Array([1]))]);
  const before = readFileSync(path);
  const failing = { ...source('a', [8], new Float32Array(8)), read: (): Uint8Array => { throw new Error('no more'); } }; // prettier-ignore
  assert.match((await errorOf(() => writeSafetensors(path, [failing]))).message, 'no more');
  const aborted = { signal: AbortSignal.abort(new Error('stop')) };
  assert.match(
    (await errorOf(() => writeSafetensors(path, [source('a', [8], new Float32Array(8))], aborted))).message,
    'stop',
  );
  assert.equal(readFileSync(path), before);
  assert.equal(
    readdirSync(folder).filter((name) => name.endsWith('.tmp')),
    [],
  );
  await assertRejects(() => writeSafetensors(join(folder, 'no', 'x.safetensors'), []), 'ERR_FILE', 'ENOENT');
});

test('sharded checkpoints', async () => {
  const sharded = join(folder, 'sharded');
  mkdirSync(sharded);
  await writeSafetensors(join(sharded, 'model-1.safetensors'), [source('a', [2], new Float32Array([1, 2]))]);
  await writeSafetensors(join(sharded, 'model-2.safetensors'), [source('b', [1], new Float32Array([3]))]);
  const index = (map: Record<string, string>): void => {
    writeFileSync(join(sharded, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }));
  };
  index({ a: 'model-1.safetensors', b: 'model-2.safetensors' });
  const checkpoint = await openCheckpoint(sharded);
  assert.equal([...checkpoint.keys()], ['a', 'b']);
  assert.is(checkpoint.get('b')?.file, join(sharded, 'model-2.safetensors'));

  index({ a: 'model-1.safetensors', b: 'model-1.safetensors' });
  await assertRejects(() => openCheckpoint(sharded), 'ERR_FORMAT', 'model-1.safetensors holds b');
  index({ a: 'model-3.safetensors' });
  await assertRejects(() => openCheckpoint(sharded), 'ERR_FILE', 'model-3.safetensors');
  for (const shard of ['../sharded/model-1.safetensors', '/etc/passwd', '..', 'x/y']) {
    index({ a: shard });
    await assertRejects(() => openCheckpoint(sharded), 'ERR_FORMAT', 'not a plain file name');
  }
  writeFileSync(join(sharded, 'model.safetensors.index.json'), '{"weight_map": 3}');
  await assertRejects(() => openCheckpoint(sharded), 'ERR_FORMAT', 'weight_map');
  mkdirSync(join(folder, 'bare'));
  await assertRejects(() => openCheckpoint(join(folder, 'bare')), 'ERR_FILE', 'holds no weights');
});

test('npy files have NumPy’s form', async () => {
  const path = join(folder, 'array.npy');
  await writeNpy(path, new Float32Array([1, 2, 3, 4, 5, 6]), [2, 3]);
  const bytes = readFileSync(path);
  assert.is(bytes.toString('latin1', 0, 8), '\x93NUMPY\x01\x00');
  const length = bytes.readUInt16LE(8);
  assert.is((10 + length) % 64, 0);
  assert.is(
    bytes.toString('latin1', 10, 10 + length).trimEnd(),
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
  );
  assert.is(bytes[9 + length], 10);
  assert.is(bytes.readFloatLE(10 + length + 4 * 5), 6);
  await writeNpy(path, new Float32Array([1]), [1]);
  assert.match(readFileSync(path, 'latin1'), "'shape': (1,)");
});

test('tokens as JSON are one document, in pieces that a string can hold', () => {
  const data = new Float32Array([1, -0.5, 3.4028234663852886e38, 1e-45, 0.1, 7, 8, 9]);
  const small = [...jsonTokens({ data, shape: [2, 2, 2], photos: [3, 1] }, ['a "b"', '名'])];
  const row = (at: number): number[] => [...data.subarray(at, at + 2)];
  assert.equal(JSON.parse(small.join('')), {
    shape: [2, 2, 2],
    identities: [
      { name: 'a "b"', photos: 3, tokens: [row(0), row(2)] },
      { name: '名', photos: 1, tokens: [row(4), row(6)] },
    ],
  });
  const none = [...jsonTokens({ data: new Float32Array(0), shape: [0, 2, 2], photos: [] }, [])];
  assert.equal(JSON.parse(none.join('')), { shape: [0, 2, 2], identities: [] });
  // Long names stand for the tokens of a thousand identities: together they are longer than the longest string.
  const names = Array<string>(600).fill('n'.repeat(1_000_000));
  const large = { data: new Float32Array(600), shape: [600, 1, 1], photos: Array<number>(600).fill(1) };
  let length = 0;
  for (const piece of jsonTokens(large, names)) length += piece.length;
  assert.ok(length > constants.MAX_STRING_LENGTH);
});

test.after(() => {
  rmSync(folder, { recursive: true, force: true });
});

test.run();
