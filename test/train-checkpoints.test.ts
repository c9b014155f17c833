// A run's checkpoints: round trips, what is kept, damage, values that are not finite, full disks, kill -9, and two processes in one folder.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { openCheckpoint } from '../src/io/checkpoint.js';
import { FileError } from '../src/errors.js';
import type { CheckpointContent, StoredCheckpoint } from '../src/train/checkpoint_folder.js';
import {
  bestCheckpoint,
  Checkpoints,
  latestCheckpoint,
  type DamagedCheckpoint,
} from '../src/train/checkpoints.js';
import { assertContent, contentOf, tensorOf } from './support/checkpoint_content.js';
import { assertRejects, errorOf } from './support/errors.js';

const scratch = mkdtempSync(join(tmpdir(), 'omni-id-train-checkpoints-'));
let runs = 0;
const newRun = (): string => join(scratch, `run-${runs++}`);
const keepAll = { keepLast: 1000, best: false };
const entries = (run: string): string[] => readdirSync(join(run, 'checkpoints')).sort();

async function saved(steps: readonly number[], keep = keepAll): Promise<string> {
  const run = newRun();
  await using checkpoints = await Checkpoints.open(run, keep);
  for (const step of steps) await checkpoints.save(contentOf(step));
  return run;
}

async function latest(run: string): Promise<{ stored: StoredCheckpoint; damaged: DamagedCheckpoint[] }> {
  const damaged: DamagedCheckpoint[] = [];
  const stored = await latestCheckpoint(run, (one) => damaged.push(one));
  assert.ok(stored);
  await assertContent(stored);
  return { stored, damaged };
}

test('what was saved comes back, bit for bit', async () => {
  const run = await saved([1, 20]);
  const { stored, damaged } = await latest(run);
  assert.is(stored.step, 20);
  assert.is(stored.name, 'step-00000020');
  assert.equal(damaged, []);
  // The weights are an ordinary safetensors file, which can be mapped.
  assert.ok((await openCheckpoint(stored.path('weights'))).has('encoder.queries'));
  await assertRejects(() => stored.path('ema'), 'ERR_FORMAT', '"ema"', 'weights, moments');
  assert.not.ok(existsSync(join(run, 'train.lock')));
});

test('tensors larger than a piece are read and written in pieces', async () => {
  const run = newRun();
  await using checkpoints = await Checkpoints.open(run, keepAll);
  const count = 9 * 1024 * 1024 + 5;
  let most = 0;
  const progress: number[] = [];
  const large = {
    name: 'large',
    shape: [count],
    read: (first: number, n: number) => {
      most = Math.max(most, n);
      return Promise.resolve(Float32Array.from({ length: n }, (_, i) => (first + i) % 65_521));
    },
  };
  await checkpoints.save(
    { step: 1, state: null, tensors: { weights: [large] } },
    { onProgress: ({ bytesDone, bytesTotal }) => progress.push(bytesDone / bytesTotal) },
  );
  assert.is(most, 4 * 1024 * 1024);
  assert.is(progress.length, 3);
  assert.is(progress.at(-1), 1);
  const stored = await checkpoints.latest();
  assert.ok(stored);
  let next = 0;
  for await (const { name, shape, first, values } of stored.pieces('weights')) {
    assert.is(name, 'large');
    assert.equal(shape, [count]);
    assert.is(first, next);
    next += values.length;
    assert.ok(values.every((value, i) => value === (first + i) % 65_521));
  }
  assert.is(next, count);
});

test('a run without checkpoints has no latest and no best', async () => {
  await using checkpoints = await Checkpoints.open(newRun(), keepAll);
  assert.is(await checkpoints.latest(), undefined);
  assert.is(await bestCheckpoint(checkpoints.runFolder), undefined);
  assert.is(await latestCheckpoint(join(scratch, 'nowhere')), undefined);
});

test('the last ones and the best one are kept', async () => {
  // Losses of steps 1 to 9: 3 5 2 4 1 3 5 2 4.
  const run = await saved([1, 2, 3, 4, 5, 6, 7, 8, 9], { keepLast: 2, best: true });
  assert.equal(entries(run), ['step-00000005', 'step-00000008', 'step-00000009']);
  assert.is((await bestCheckpoint(run))?.step, 5);
  assert.equal(entries(await saved([1, 2, 3], { keepLast: 1, best: false })), ['step-00000003']);
});

const damages: [what: string, damage: (folder: string) => void, ...words: string[]][] = [
  ['a truncated file', (folder) => { truncateSync(join(folder, 'moments.safetensors'), 5000); }, 'moments.safetensors has 5000 bytes'],
  ['an empty file', (folder) => { truncateSync(join(folder, 'weights.safetensors'), 0); }, 'weights.safetensors has 0 bytes'],
  ['a missing file', (folder) => { rmSync(join(folder, 'weights.safetensors')); }, 'weights.safetensors', 'ENOENT'],
  ['a flipped bit', (folder) => { flip(join(folder, 'weights.safetensors'), 60_000); }, 'weights.safetensors is damaged', 'checksum'],
  ['a flipped bit in a header', (folder) => { flip(join(folder, 'weights.safetensors'), 20); }, 'weights.safetensors is damaged'],
  ['a truncated document', (folder) => { truncateSync(join(folder, 'checkpoint.json'), 100); }, 'checkpoint.json is damaged'],
  ['a flipped bit in the document', (folder) => { flip(join(folder, 'checkpoint.json'), 150); }, 'checkpoint.json is damaged'],
  ['no document', (folder) => { rmSync(join(folder, 'checkpoint.json')); }, 'checkpoint.json', 'ENOENT'],
  ['an empty folder', (folder) => { rmSync(folder, { recursive: true }); mkdirSync(folder); }, 'checkpoint.json'],
]; // prettier-ignore

function flip(path: string, at: number): void {
  const bytes = readFileSync(path);
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  writeFileSync(path, bytes);
}

for (const [what, damage, ...words] of damages) {
  test(`${what}: the checkpoint before it is used, and it is said`, async () => {
    const run = await saved([1, 2]);
    damage(join(run, 'checkpoints/step-00000002'));
    const { stored, damaged } = await latest(run);
    assert.is(stored.step, 1);
    assert.is(damaged.length, 1);
    assert.match(damaged[0]?.folder ?? '', /step-00000002$/);
    for (const word of words) assert.match(damaged[0]?.error.message ?? '', word);
    // Training goes on from step 1; the damaged one of a later step does not outlive the next.
    await using checkpoints = await Checkpoints.open(run, { keepLast: 1, best: true });
    await checkpoints.save({ ...contentOf(1), heldOutLoss: 1 });
    assert.equal(entries(run), ['step-00000001']);
  });
}

test('when all are damaged, nothing starts from scratch without a word', async () => {
  const run = await saved([1]);
  truncateSync(join(run, 'checkpoints/step-00000001/weights.safetensors'), 10);
  await assertRejects(() => latestCheckpoint(run), 'ERR_FORMAT', 'none of the checkpoints', 'has 10 bytes');
});

/** Checks that saving fails, and that everything is as before. */
async function assertSurvives(
  run: string,
  checkpoints: Checkpoints,
  content: CheckpointContent,
  code: string,
  ...words: string[]
): Promise<void> {
  const before = entries(run);
  await assertRejects(() => checkpoints.save(content), code, ...words);
  assert.equal(entries(run), before);
  await latest(run);
}

test('a value that is not finite is never written', async () => {
  const run = await saved([1]);
  await using checkpoints = await Checkpoints.open(run, { keepLast: 1, best: false });
  for (const value of [NaN, Infinity, -Infinity]) {
    const values = new Float32Array(1000);
    values[777] = value;
    const tensors = {
      weights: [...(contentOf(2).tensors['weights'] ?? []), tensorOf('bad', [10, 100], values)],
    };
    await assertSurvives(run, checkpoints, { ...contentOf(2), tensors }, 'ERR_NOT_FINITE', `bad is ${value} at element 777 after step 2`); // prettier-ignore
    await assertSurvives(run, checkpoints, { ...contentOf(2), state: { loss: [1, value] } }, 'ERR_NOT_FINITE', `is ${value}`); // prettier-ignore
  }
});

test('saving can be stopped', async () => {
  const run = await saved([1]);
  await using checkpoints = await Checkpoints.open(run, keepAll);
  const controller = new AbortController();
  const reason = new Error('enough');
  const onProgress = (): void => {
    controller.abort(reason);
  };
  assert.is(
    await errorOf(() => checkpoints.save(contentOf(2), { signal: controller.signal, onProgress })),
    reason,
  );
  assert.equal(entries(run), ['step-00000001']);
});

test('a disk that is full at any write or sync', async () => {
  const probe = await open(join(scratch, 'probe'), 'w');
  const prototype = Object.getPrototypeOf(probe) as Record<'write' | 'writeFile' | 'sync', (...given: unknown[]) => unknown>; // prettier-ignore
  await probe.close();
  const original = { write: prototype.write, writeFile: prototype.writeFile, sync: prototype.sync };
  let calls = 0;
  let fatal = 0;
  for (const name of ['write', 'writeFile', 'sync'] as const) {
    prototype[name] = function (this: FileHandle, ...given: unknown[]) {
      if (++calls !== fatal) return original[name].apply(this, given);
      return Promise.reject(Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', syscall: 'write' }));
    };
  } // prettier-ignore
  try {
    const run = await saved([1]);
    await using checkpoints = await Checkpoints.open(run, keepAll);
    calls = 0;
    await checkpoints.save(contentOf(2));
    const all = calls;
    assert.ok(all > 10, `only ${all} writes and syncs were seen`);
    rmSync(join(run, 'checkpoints/step-00000002'), { recursive: true });
    // The last call syncs the folder after the rename: the checkpoint is there by then.
    for (fatal = 1; fatal < all; fatal++) {
      calls = 0;
      await assertSurvives(run, checkpoints, contentOf(2), 'ERR_FILE', 'ENOSPC');
    }
  } finally {
    Object.assign(prototype, original);
  }
});

test('a disk that is really full', async () => {
  const run = newRun();
  mkdirSync(run);
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', run], { stdio: 'ignore' });
  } catch {
    return; // Only root may mount; the test before this one needs nobody's leave.
  }
  try {
    await using checkpoints = await Checkpoints.open(run, keepAll);
    await checkpoints.save(contentOf(1));
    const zeros = tensorOf('zeros', [1 << 20], new Float32Array(1 << 20));
    await assertSurvives(run, checkpoints, { ...contentOf(2), tensors: { weights: [zeros] } }, 'ERR_FILE', 'ENOSPC'); // prettier-ignore
    const error = await errorOf(async () => { for (let step = 2; ; step++) await checkpoints.save(contentOf(step)); }); // prettier-ignore
    assert.instance(error, FileError);
    await latest(run);
    assert.not.ok(entries(run).some((name) => name.startsWith('.')));
  } finally {
    execFileSync('umount', [run]);
  }
});

const loop = ['--import', 'tsx', join(import.meta.dirname, 'support/save_loop.ts')];

test('killed 20 times while it saves, a run always has its last checkpoint', async () => {
  const run = newRun();
  let before = 0;
  let leftovers = 0;
  for (let round = 0; round < 20; round++) {
    const child = spawn(process.execPath, [...loop, run], { stdio: ['ignore', 'pipe', 'pipe'] });
    let printed = '';
    let errors = '';
    child.stdout.on('data', (chunk: Buffer) => (printed += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
    const end = once(child, 'close');
    await Promise.race([once(child.stdout, 'data'), end]);
    // A save takes some 5 ms: any point of it and of those after it.
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 20));
    child.kill('SIGKILL');
    await end;
    assert.is(errors, '');
    leftovers += entries(run).filter((name) => name.startsWith('.')).length;
    const told = Number(printed.trim().split('\n').at(-1));
    assert.ok(told > before, `${told} after ${before}`);
    // Without a start in between, a checkpoint that is being replaced may stand aside.
    await (await Checkpoints.open(run, { keepLast: 2, best: true })).close();
    const { stored, damaged } = await latest(run);
    assert.equal(damaged, []);
    assert.ok(stored.step >= told, `step ${stored.step} is there, ${told} was saved`);
    assert.not.ok(entries(run).some((name) => name.startsWith('.')));
    before = told;
  }
  assert.ok(leftovers > 0, 'no round was killed in the middle of a save');
});

test('a checkpoint that stood aside is put back', async () => {
  const run = await saved([1]);
  const folder = join(run, 'checkpoints');
  renameSync(join(folder, 'step-00000001'), join(folder, '.step-00000001.replaced'));
  assert.is(await latestCheckpoint(run), undefined);
  await using checkpoints = await Checkpoints.open(run, keepAll);
  assert.is((await checkpoints.latest())?.step, 1);
  // Saved again while it is there.
  await checkpoints.save(contentOf(1));
  assert.equal(entries(run), ['step-00000001']);
  await latest(run);
});

test('a second run in the same folder is refused while the first lives', async () => {
  const run = newRun();
  const first = await Checkpoints.open(run, keepAll);
  await assertRejects(() => Checkpoints.open(run, keepAll), 'ERR_FILE', `process ${process.pid} trains in ${run}`);
  await first.close();
  await (await Checkpoints.open(run, keepAll)).close();
}); // prettier-ignore

test('locks: of a living process, a dead one, another boot, another machine, and none', async () => {
  const run = newRun();
  const child = spawn(process.execPath, [...loop, run], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
  await assertRejects(() => Checkpoints.open(run, keepAll), 'ERR_FILE', `process ${child.pid} trains`);
  child.kill('SIGKILL');
  await once(child, 'close');
  const lock = join(run, 'train.lock');
  const left = JSON.parse(readFileSync(lock, 'utf8')) as Record<string, unknown>;
  assert.is(left['pid'], child.pid);
  await (await Checkpoints.open(run, keepAll)).close();

  const with_ = (fields: object): void => {
    writeFileSync(lock, JSON.stringify({ ...left, ...fields }));
  };
  // The number is in use again, by a process that started at another time: this one.
  with_({ pid: process.pid });
  await (await Checkpoints.open(run, keepAll)).close();
  with_({ boot: 'another' });
  await (await Checkpoints.open(run, keepAll)).close();
  with_({ host: `not-${hostname()}` });
  await assertRejects(
    () => Checkpoints.open(run, keepAll),
    'ERR_FILE',
    `on not-${hostname()}`,
    `remove ${lock}`,
  );
  writeFileSync(lock, 'mine');
  await assertRejects(() => Checkpoints.open(run, keepAll), 'ERR_FILE', 'not a lock of omni-id');
  rmSync(lock);
  await (await Checkpoints.open(run, keepAll)).close();
  assert.not.ok(readdirSync(run).some((name) => name.startsWith('train.lock')));
});

test('of many that take over a stale lock at once, one gets it', async () => {
  const run = newRun();
  await (await Checkpoints.open(run, keepAll)).close();
  for (let round = 0; round < 20; round++) {
    writeFileSync(join(run, 'train.lock'), JSON.stringify({ pid: 1, started: 'never', boot: 'another', host: hostname(), nonce: String(round) })); // prettier-ignore
    const tries = await Promise.allSettled(Array.from({ length: 8 }, () => Checkpoints.open(run, keepAll)));
    const got = tries.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
    assert.is(got.length, 1);
    await got[0]?.close();
  }
});

test('a folder that cannot be written', async () => {
  const path = join(scratch, 'file');
  writeFileSync(path, '');
  await assertRejects(() => Checkpoints.open(path, keepAll), 'ERR_FILE', 'ENOTDIR');
});

test.after(() => {
  rmSync(scratch, { recursive: true, force: true });
});
test.run();
