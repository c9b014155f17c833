// Threads, processes and memory: worker threads share the addon and may be terminated at any moment, a process ends by itself, libuv's pool stays free,
// and what is disposed of is given back. Runs the built package (dist/), which is what worker threads load.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { OmniIdEncoder } from '../src/index.js';
import { golden } from './support/golden.js';
import { procedural } from './support/procedural.js';

const { folder } = await golden('omni_encoder');
const encoder = await OmniIdEncoder.load(folder, { dtype: 'f32' });
const size = 3 * encoder.config.vision.imageSize ** 2;
const photo = procedural('photo', size, 0, 1.5);
const sanitized = process.env['OMNI_ID_SANITIZED'] !== undefined;

function worker(rounds: number): Worker {
  const script = new URL('./support/worker.mjs', import.meta.url);
  return new Worker(script, { workerData: { folder, photo, rounds }, execArgv: [] });
}

test('worker threads use the addon at once and agree with the main thread', async () => {
  const { data: expected } = await encoder.embed([[photo, photo]]);
  const results: Float32Array[] = [];
  const workers = [0, 1, 2].map(() => worker(5));
  const exits = workers.map((one) => {
    one.on('message', (message: unknown) => {
      if (message instanceof Float32Array) results.push(message);
    });
    return once(one, 'exit');
  });
  for (let i = 0; i < 10; i++) assert.equal((await encoder.embed([[photo, photo]])).data, expected);
  for (const exit of exits) assert.equal(await exit, [0]);
  assert.is(results.length, 15);
  for (const result of results) assert.equal(result, expected);
});

test('terminating a worker thread at any moment harms nobody', async () => {
  const { data: expected } = await encoder.embed([[photo, photo]]);
  for (let i = 0; i < (sanitized ? 5 : 25); i++) {
    const one = worker(1_000_000);
    await once(one, 'message');
    await new Promise((resolve) => setTimeout(resolve, i));
    await one.terminate();
  }
  assert.equal((await encoder.embed([[photo, photo]])).data, expected);
});

/** Runs a script in a process of its own: its exit code and output. */
async function run(script: string): Promise<{ code: number | null; output: string }> {
  const dist = pathToFileURL(join(import.meta.dirname, '../dist/index.js')).href;
  const child = spawn(
    process.execPath,
    ['--input-type=module', '-e', `import { OmniIdEncoder } from ${JSON.stringify(dist)};\n${script}`],
    {
      timeout: 60_000,
    },
  );
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, output };
}

const load = `const encoder = await OmniIdEncoder.load(${JSON.stringify(folder)});
const photo = new Float32Array(${size}).fill(0.5);`;

test('a process ends by itself when nothing is pending', async () => {
  for (const script of [
    '',
    load,
    `${load} await encoder.embed([[photo]]);`,
    `${load} await encoder.embed([[photo]]); encoder.dispose();`,
  ]) {
    const { code, output } = await run(`${script} console.log('done');`);
    assert.is(code, 0, output);
    assert.match(output, 'done');
  }
});

test('a pending call keeps the process alive until it is done', async () => {
  const { code, output } = await run(
    `${load} void encoder.embed(Array.from({ length: 100 }, () => [photo])).then(() => console.log('embedded'));`,
  );
  assert.is(code, 0, output);
  assert.match(output, 'embedded');
});

test('process.exit() during a call does not crash', async () => {
  const { code, output } = await run(
    `${load} void encoder.embed(Array.from({ length: 500 }, () => [photo])); setTimeout(() => process.exit(7), 20);`,
  );
  assert.is(code, 7, output);
});

test('file reads go on while the engine is busy', async () => {
  // On libuv's threads, four calls would hold up every read until the first of them is done.
  let done = false;
  const calls = Promise.all(
    [0, 1, 2, 3, 4].map(() => encoder.embed(Array.from({ length: 200 }, () => [photo, photo, photo]))),
  ).then(() => (done = true));
  let reads = 0;
  for (; reads < 20; reads++) await readFile(join(folder, 'config.json'));
  assert.not(done, 'twenty small reads take less than a thousand embeddings');
  await calls;
});

test('file reads go on while photos are decoded', async () => {
  // sharp decodes on libuv's threads: with all of them taken, every read would wait for a photo of tens of milliseconds.
  const { default: sharp } = await import('sharp');
  const noise = new Uint8Array(3000 * 2000 * 3).map((_, i) => (i * 2654435761) >>> 24);
  const large = await sharp(noise, { raw: { width: 3000, height: 2000, channels: 3 } })
    .jpeg({ quality: 95 })
    .toBuffer();
  let photosDone = 0;
  const call = encoder.embed([Array.from({ length: 24 }, () => large)], {
    onProgress: (progress) => ({ photosDone } = progress),
  });
  let reads = 0;
  for (; reads < 20; reads++) await readFile(join(folder, 'config.json'));
  assert.ok(photosDone < 24, 'twenty small reads take less than two dozen photos');
  await call;
});

test('memory is given back when it is asked back, not when garbage is collected', async () => {
  // Weights of 40 MB, in their packed form too: three encoders that were disposed of must not be there any more.
  const { config } = encoder;
  const large = {
    ...config,
    vision: {
      ...config.vision,
      intermediateSize: Math.ceil(2 ** 21 / config.vision.hiddenSize),
      numHiddenLayers: 2,
    },
  };
  const resident = async (): Promise<number> => {
    // Two turns of the loop: what was queued behind the disposal has run then.
    for (let i = 0; i < 2; i++) await new Promise((resolve) => setTimeout(resolve, 50));
    return process.memoryUsage().rss;
  };
  const cycle = async (): Promise<void> => {
    await using one = await OmniIdEncoder.create(large, { dtype: 'f32' });
    await one.embed([[photo, photo]]);
  };
  await cycle();
  const before = await resident();
  for (let i = 0; i < 3; i++) await cycle();
  const grown = (await resident()) - before;
  if (!sanitized) assert.ok(grown < 60e6, `grew by ${grown / 1e6} MB`);
});

test('loading and disposing again and again does not grow', async () => {
  const resident = async (cycles: number): Promise<number> => {
    for (let i = 0; i < cycles; i++) {
      await using one = await OmniIdEncoder.load(folder);
      await one.embed([[photo, photo]]);
    }
    return process.memoryUsage().rss;
  };
  const early = await resident(sanitized ? 5 : 60);
  const late = await resident(sanitized ? 5 : 240);
  // One encoder is 1 MB of weights and as much in f32: a leak of either would show as 240 MB.
  if (!sanitized) assert.ok(late - early < 60e6, `grew by ${(late - early) / 1e6} MB`);
});

test.after(() => {
  encoder.dispose();
});

test.run();
