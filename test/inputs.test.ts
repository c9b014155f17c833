// What bad input gets: a typed error with a stable code that names what was given and what was expected.
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  ClipVisionEncoder,
  OmniIdEncoder,
  type ImageError,
  type OmniIdEncoderConfig,
  type Photo,
} from '../src/index.js';
import { parseOmniIdConfig } from '../src/io/config.js';
import { absentDevices } from './support/devices.js';
import { assertRejects, errorOf } from './support/errors.js';
import { golden } from './support/golden.js';

const { folder, config: json } = await golden('omni_encoder');
const config: OmniIdEncoderConfig = parseOmniIdConfig(json, 'omni_encoder');
const side = config.vision.imageSize;
const pixels = new Float32Array(3 * side * side).fill(0.1);
const raw = { data: new Uint8Array(30 * 20 * 3).fill(90), width: 30, height: 20, channels: 3 } as const;
const encoder = await OmniIdEncoder.load(folder, { dtype: 'f32' });
const scratch = mkdtempSync(join(tmpdir(), 'omni-id-inputs-'));
const loose = (value: unknown): never => value as never;

test('arguments of load and create', async () => {
  await assertRejects(
    () => OmniIdEncoder.load(folder, { dtype: loose('f64') }),
    'ERR_INVALID_ARGUMENT',
    '"f64"',
    'bf16',
  );
  await assertRejects(
    () => OmniIdEncoder.load(folder, { packedCache: loose('x') }),
    'ERR_INVALID_ARGUMENT',
    '"x"',
    'write',
  );
  await assertRejects(
    () => OmniIdEncoder.load(folder, { device: loose('tpu') }),
    'ERR_INVALID_ARGUMENT',
    '"tpu"',
    'cpu',
  );
  for (const device of absentDevices())
    await assertRejects(() => OmniIdEncoder.load(folder, { device }), 'ERR_DEVICE_UNAVAILABLE', device);
  for (const threads of [0, -1, 1.5, NaN, 5000, loose('2')]) {
    await assertRejects(
      () => OmniIdEncoder.load(folder, { device: 'cpu', threads }),
      'ERR_INVALID_ARGUMENT',
      String(threads),
    );
  }
  await assertRejects(
    () => OmniIdEncoder.create(loose('mega')),
    'ERR_INVALID_ARGUMENT',
    '"mega"',
    'nano, nano-synth, h',
  );
  await assertRejects(() => OmniIdEncoder.create(loose(7)), 'ERR_INVALID_ARGUMENT', 'preset is 7');
  await assertRejects(() => OmniIdEncoder.create(loose(null)), 'ERR_INVALID_ARGUMENT', 'preset is null');
  for (const folder of [undefined, 5, '', new URL('file:///tmp')])
    await assertRejects(
      () => OmniIdEncoder.load(loose(folder)),
      'ERR_INVALID_ARGUMENT',
      'expected the path of a folder',
    );
  await assertRejects(
    () => OmniIdEncoder.create(config, { vision: loose(5) }),
    'ERR_INVALID_ARGUMENT',
    'vision is 5',
  );
  for (const seed of [-1, 0.5, NaN, 2 ** 53]) {
    await assertRejects(() => OmniIdEncoder.create(config, { seed }), 'ERR_INVALID_ARGUMENT', String(seed));
  }
  await assertRejects(
    () => OmniIdEncoder.create({ ...config, heads: config.width + 1 }),
    'ERR_CONFIG',
    'multiple of heads',
  );
  await assertRejects(() => OmniIdEncoder.create({ ...config, tokens: 0 }), 'ERR_CONFIG', 'encoder.L');
  await assertRejects(() => OmniIdEncoder.create(loose({})), 'ERR_CONFIG', 'vision', 'tokens');
  await assertRejects(() => OmniIdEncoder.create(loose([])), 'ERR_CONFIG', 'the whole is []');
  await assertRejects(
    () => OmniIdEncoder.create(loose({ ...config, tokenz: 3 })),
    'ERR_CONFIG',
    'unknown field "tokenz": expected vision',
  );
  await assertRejects(() => OmniIdEncoder.load(join(scratch, 'nowhere')), 'ERR_FILE', 'nowhere');
  await assertRejects(() => ClipVisionEncoder.load(folder), 'ERR_CONFIG', 'OmniIdEncoder.load');
  await assertRejects(() => ClipVisionEncoder.load(scratch), 'ERR_FILE', 'config.json');
  await assertRejects(() => OmniIdEncoder.create(config, { vision: scratch }), 'ERR_FILE', 'config.json');
});

test('arguments of embed', async () => {
  await assertRejects(
    () => encoder.embed(loose('photo.jpg')),
    'ERR_INVALID_ARGUMENT',
    '"photo.jpg"',
    'array',
  );
  await assertRejects(
    () => encoder.embed([[pixels], loose(null)]),
    'ERR_INVALID_ARGUMENT',
    'identity 1',
    'null',
  );
  await assertRejects(() => encoder.embed([[pixels], []]), 'ERR_INVALID_ARGUMENT', 'identity 1', 'no photos');
  await assertRejects(
    () => encoder.embed([[pixels, loose(3)]]),
    'ERR_INVALID_ARGUMENT',
    'photo 1 of identity 0',
    'is 3',
  );
  await assertRejects(() => encoder.embedImages([loose({})]), 'ERR_INVALID_ARGUMENT', 'photo 0', 'object');
  await assertRejects(
    () => encoder.embedImages([], { feature: loose('x') }),
    'ERR_INVALID_ARGUMENT',
    '"x"',
    'pooled',
  );
});

test('options that are unknown, misspelt or of the wrong type', async () => {
  const refused = (body: () => unknown, ...words: string[]): Promise<unknown> =>
    assertRejects(body, 'ERR_INVALID_ARGUMENT', ...words);
  await refused(() => OmniIdEncoder.load(folder, loose({ thread: 2 })), '"thread"', 'threads');
  await refused(() => OmniIdEncoder.load(folder, loose({ seed: 2 })), '"seed"');
  await refused(() => OmniIdEncoder.create(config, loose({ packedCache: 'write' })), '"packedCache"');
  await refused(() => OmniIdEncoder.create(config, loose('x')), '"x"', 'object');
  await refused(() => OmniIdEncoder.load(folder, { threads: loose('2') }), 'threads is "2"');
  await refused(() => encoder.save(join(scratch, 'x'), loose({ type: 'bf16' })), '"type"', 'dtype');
  await refused(() => encoder.save(loose(5)), '5', 'path');
  const wrong: [object, ...string[]][] = [
    [{ dtype: 'f32' }, '"dtype"', 'onPhotoError'],
    [{ onprogress: () => undefined, signals: 1 }, '"onprogress", "signals"'],
    [{ signal: 5 }, 'signal is 5', 'AbortSignal'],
    [{ signal: new AbortController() }, 'of type AbortController'],
    [{ onProgress: 'x' }, 'onProgress is "x"', 'a function'],
    [{ onPhotoError: 'x', maxPixels: -1 }, 'onPhotoError is "x"', 'maxPixels is -1'],
    [{ maxPixels: NaN }, 'maxPixels is NaN'],
    [{ maxPixels: 2 ** 31 }, 'maxPixels', '715827882'],
    [{ background: 'nonsense' }, 'background is "nonsense"', 'a colour'],
    [{ background: 5 }, 'background is 5'],
  ];
  for (const [options, ...words] of wrong) {
    await refused(() => encoder.embed([[pixels]], loose(options)), ...words);
    await refused(() => encoder.embedImages([pixels], loose(options)), ...words);
  }
  await refused(() => encoder.embed([[pixels]], loose(null)), 'null');
  await refused(() => encoder.embedImages([pixels], loose(null)), 'null');
  // Callers pass on what they have: a field that is undefined is absent.
  await encoder.embed([[pixels]], {
    signal: undefined,
    onProgress: undefined,
    ...({ other: undefined } as object),
  });
});

test('photos that change while the call waits are not silently something else', async () => {
  const { data: expected } = await encoder.embed([[pixels, raw]]);
  const gone = (): Float32Array => {
    const copy = pixels.slice();
    queueMicrotask(() => structuredClone(copy, { transfer: [copy.buffer] }));
    return copy;
  };
  const before = encoder.embed(Array.from({ length: 20 }, () => [pixels]));
  await assertRejects(() => encoder.embed([[pixels, gone()]]), 'ERR_PIXELS_INVALID', 'photo 1', '0 values');
  await assertRejects(() => encoder.embedImages([gone()]), 'ERR_PIXELS_INVALID', '0 values');
  // A Buffer, whose slice() is a view; transferred or overwritten while the engine may read it.
  for (let i = 0; i < 20; i++) {
    const memory = new Uint8Array(raw.data);
    const call = encoder.embed([[pixels, { ...raw, data: Buffer.from(memory.buffer) }]]);
    await new Promise((resolve) => (i % 2 ? setTimeout(resolve, i / 4) : setImmediate(resolve)));
    structuredClone(memory, { transfer: [memory.buffer] });
    const result = await call.catch((error: unknown) => error);
    if (result instanceof Error) assert.is((result as ImageError).code, 'ERR_PIXELS_INVALID');
    else assert.equal((result as { data: Float32Array }).data, expected);
  }
  // The lists are the caller's to change.
  const lists: Photo[][] = [[pixels, raw]];
  const call = encoder.embed(lists);
  lists[0]?.push(loose(null));
  lists.push([]);
  assert.equal((await call).data, expected);
  const list: Photo[] = [pixels];
  const features = encoder.embedImages(list, { feature: 'pooled' });
  list.push(loose(null));
  assert.is((await features).shape[0], 1);
  const shared = new Float32Array(new SharedArrayBuffer(pixels.byteLength));
  shared.set(pixels);
  assert.equal((await encoder.embed([[shared, raw]])).data, expected);
  await before;
});

test('numbers that are not finite', async () => {
  await assertRejects(
    () => encoder.embed([[pixels], [pixels.map((x) => x * 1e40)]]),
    'ERR_PIXELS_INVALID',
    'identity 1',
  );
  const enormous = pixels.map(() => 3e38);
  await assertRejects(() => encoder.embed([[pixels], [enormous]]), 'ERR_NOT_FINITE', 'identity 1');
  await assertRejects(() => encoder.embedImages([enormous]), 'ERR_NOT_FINITE');
});

test('callbacks', async () => {
  const reason = new Error('from the callback');
  const fail = (): never => {
    throw reason;
  };
  assert.is(await errorOf(() => encoder.embed([[pixels]], { onProgress: fail })), reason);
  assert.is(await errorOf(() => encoder.embed([['no such']], { onPhotoError: fail })), reason);
  // Photos that are left out are done too.
  const seen: number[] = [];
  await encoder.embed([[pixels, 'no such', pixels], ['no such']], {
    onPhotoError: () => undefined,
    onProgress: ({ photosDone, photosTotal }) => {
      assert.is(photosTotal, 4);
      seen.push(photosDone);
    },
  });
  assert.is(seen.at(-1), 4);
  assert.equal(
    seen,
    [...seen].sort((a, b) => a - b),
  );
  const own = await OmniIdEncoder.load(folder);
  await assertRejects(
    () =>
      own.embed([[pixels]], {
        onProgress: () => {
          own.dispose();
        },
      }),
    'ERR_DISPOSED',
    'during the call',
  );
});

test('no identities and no photos give empty results', async () => {
  assert.equal((await encoder.embed([])).shape, [0, config.tokens, config.width]);
  assert.is((await encoder.embedImages([])).data.length, 0);
});

test('pixels', async () => {
  const bad: [Photo, ...string[]][] = [
    [new Float32Array(5), '5 values', String(pixels.length)],
    [{ ...raw, width: 31 }, '1800 bytes', '31 × 20 × 3'],
    [{ ...raw, width: 0 }, '0 × 20'],
    [{ ...raw, height: 2.5 }, '2.5'],
    [{ ...raw, channels: loose(4) }, '4 channels'],
    [{ ...raw, data: loose([1, 2, 3]) }, 'Uint8Array'],
  ];
  for (const [photo, ...words] of bad) {
    const error = await assertRejects(
      () => encoder.embed([[pixels], [pixels, photo]]),
      'ERR_PIXELS_INVALID',
      'photo 1 of identity 1',
      ...words,
    );
    assert.is((error as ImageError).identity, 1);
    assert.is((error as ImageError).photo, 1);
  }
  for (const value of [NaN, Infinity, -Infinity]) {
    const spoiled = pixels.slice();
    spoiled[17] = value;
    await assertRejects(
      () => encoder.embed([[pixels, spoiled]]),
      'ERR_PIXELS_INVALID',
      'photo 1 of identity 0',
      'value 17',
      String(value),
    );
  }
});

test('files', async () => {
  const files: [string, Uint8Array | undefined, string, string][] = [
    ['missing.jpg', undefined, 'ERR_IMAGE_NOT_FOUND', 'no such file'],
    ['empty.jpg', new Uint8Array(0), 'ERR_IMAGE_UNREADABLE', 'empty'],
    ['text.jpg', new TextEncoder().encode('this is no image'), 'ERR_IMAGE_UNREADABLE', 'not an image'],
  ];
  for (const [name, bytes, code, word] of files) {
    const path = join(scratch, name);
    if (bytes) writeFileSync(path, bytes);
    const error = await assertRejects(
      () => encoder.embed([[pixels], [path]]),
      code,
      'photo 0 of identity 1',
      name,
      word,
    );
    assert.is((error as ImageError).identity, 1);
  }
  await assertRejects(() => encoder.embed([[scratch]]), 'ERR_IMAGE_UNREADABLE', 'identity 0');
});

test('onPhotoError leaves bad photos out', async () => {
  const errors: ImageError[] = [];
  const result = await encoder.embed(
    [[pixels, join(scratch, 'missing.jpg')], [new Uint8Array(3)], [raw, raw]],
    {
      onPhotoError: (error) => errors.push(error),
    },
  );
  assert.equal(result.shape, [2, config.tokens, config.width]);
  assert.equal(result.identities, [0, 2]);
  assert.equal(result.photos, [1, 2]);
  assert.equal(
    errors.map(({ code, identity, photo }) => [code, identity, photo]),
    [
      ['ERR_IMAGE_NOT_FOUND', 0, 1],
      ['ERR_IMAGE_UNREADABLE', 1, 0],
    ],
  );
  const alone = await encoder.embed([[pixels], [raw, raw]]);
  assert.equal(result.data, alone.data);
  const none = await encoder.embed([[new Uint8Array(3)]], { onPhotoError: () => undefined });
  assert.equal(none.shape, [0, config.tokens, config.width]);
});

test('abort before, during and after', async () => {
  const reason = new Error('enough');
  assert.is(await errorOf(() => encoder.embed([[pixels]], { signal: AbortSignal.abort(reason) })), reason);

  const during = new AbortController();
  const many = Array.from({ length: 200 }, () => [pixels]);
  const running = encoder.embed(many, {
    signal: during.signal,
    onProgress: () => {
      during.abort(reason);
    },
  });
  assert.is(await errorOf(() => running), reason);

  // One that waits for its turn is let go at once; the one before it is not disturbed.
  const waiting = new AbortController();
  const first = encoder.embed(many);
  const second = encoder.embed([[pixels]], { signal: waiting.signal });
  waiting.abort(reason);
  assert.is(await errorOf(() => second), reason);
  assert.is((await first).shape[0], 200);

  const after = new AbortController();
  const done = await encoder.embed([[pixels]], { signal: after.signal });
  after.abort();
  assert.ok(done.data.every(Number.isFinite));
  assert.equal((await encoder.embed([[pixels]])).data, done.data, 'the encoder is usable after all that');
});

test('calls on one encoder queue and do not disturb each other', async () => {
  const photos = [pixels, pixels.map((value) => -value), pixels.map((_, i) => Math.sin(i))];
  const alone = [];
  for (const photo of photos) alone.push((await encoder.embed([[photo]])).data);
  const together = await Promise.all(photos.map((photo) => encoder.embed([[photo]])));
  assert.equal(
    together.map(({ data }) => data),
    alone,
  );
});

test('dispose', async () => {
  const disposed = await OmniIdEncoder.load(folder);
  const running = disposed.embed(Array.from({ length: 300 }, () => [pixels]));
  const queued = disposed.embed([[pixels]]);
  disposed.dispose();
  disposed.dispose();
  await assertRejects(() => running, 'ERR_DISPOSED', 'during the call');
  await assertRejects(() => queued, 'ERR_DISPOSED');
  await assertRejects(() => disposed.embed([[pixels]]), 'ERR_DISPOSED', 'after dispose()');
  await assertRejects(() => disposed.save(join(scratch, 'saved')), 'ERR_DISPOSED');
  await assertRejects(() => disposed.info, 'ERR_DISPOSED');
  {
    using scoped = await OmniIdEncoder.load(folder);
    assert.is(scoped.dtype, 'bf16');
  }
});

test('saving where nothing can be saved', async () => {
  await assertRejects(() => encoder.save(join(scratch, 'a', 'b')), 'ERR_FILE', 'ENOENT');
  writeFileSync(join(scratch, 'file'), '');
  await assertRejects(() => encoder.save(join(scratch, 'file')), 'ERR_FILE', 'file');
  await assertRejects(
    () => encoder.save(join(scratch, 'x'), { dtype: loose('i8') }),
    'ERR_INVALID_ARGUMENT',
    'i8',
  );
  const controller = new AbortController();
  const target = join(scratch, 'aborted');
  const reason = new Error('stop');
  const saving = encoder.save(target, {
    signal: controller.signal,
    onProgress: () => {
      controller.abort(reason);
    },
  });
  assert.is(await errorOf(() => saving), reason);
  assert.not(existsSync(target), 'nothing is left behind');
});

test.after(() => {
  encoder.dispose();
  rmSync(scratch, { recursive: true, force: true });
});

test.run();
