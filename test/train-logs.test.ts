// A run's logs: JSON lines and TensorBoard's event files, also when the run is resumed; what people see; signals.
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import sharp from 'sharp';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { progressBar } from '../src/cli/output.js';
import { duration, TrainingConsole, type ConsoleStream } from '../src/train/console.js';
import { EventFile } from '../src/train/event_file.js';
import { JsonLog, readJsonLog } from '../src/train/json_log.js';
import { TrainingLogs } from '../src/train/logs.js';
import { assertRejects } from './support/errors.js';
import { crc32c, readEvent, records, type ReadEvent } from './support/event_file.js';
import { runProgram } from './support/process.js';

const scratch = mkdtempSync(join(tmpdir(), 'omni-id-train-logs-'));
const at = (name: string): string => join(scratch, name);

function events(folder: string): ReadEvent[] {
  return readdirSync(folder)
    .sort()
    .flatMap((name) => records(readFileSync(join(folder, name))).map(readEvent));
}

test('lines are in the file at once, and come back', () => {
  using log = JsonLog.open(at('a.jsonl'), 0);
  log.write({ step: 10, kind: 'train', loss: 0.5 });
  log.write({ step: 20, kind: 'train', loss: NaN, note: 'a\nb' });
  assert.equal(readFileSync(at('a.jsonl'), 'utf8').split('\n').map((line) => (line === '' ? '' : (JSON.parse(line) as unknown))), [
    { step: 10, kind: 'train', loss: 0.5 },
    { step: 20, kind: 'train', loss: null, note: 'a\nb' },
    '',
  ]);
  assert.is(readJsonLog(at('a.jsonl')).length, 2);
}); // prettier-ignore

test('a resumed run cuts off what came after its step', () => {
  const path = at('b.jsonl');
  using first = JsonLog.open(path, 0);
  for (let step = 10; step <= 100; step += 10) first.write({ step, kind: 'train', loss: 1 / step });
  first.close();
  // A killed process may leave half a line.
  appendFileSync(path, '{"step":110,"ki');
  assert.is(readJsonLog(path).length, 10);
  using second = JsonLog.open(path, 70);
  assert.equal(second.entries.map(({ step }) => step), [10, 20, 30, 40, 50, 60, 70]);
  second.write({ step: 80, kind: 'train', loss: 2 });
  second.close();
  assert.equal(readJsonLog(path).map(({ step, loss }) => [step, loss]).slice(-2), [[70, 1 / 70], [80, 2]]);
  // From scratch: nothing is left.
  JsonLog.open(path, -1).close();
  assert.is(statSync(path).size, 0);
}); // prettier-ignore

test('what is no log is not taken for one', async () => {
  writeFileSync(at('c.jsonl'), '{"step":1,"kind":"train"}\n[]\n{"step":2,"kind":"train"}\n');
  assert.equal(readJsonLog(at('c.jsonl')), [{ step: 1, kind: 'train' }]);
  await assertRejects(() => readJsonLog(at('none.jsonl')), 'ERR_FILE', 'none.jsonl');
  await assertRejects(() => JsonLog.open(at('none/log.jsonl'), 0), 'ERR_FILE', 'none/log.jsonl');
  using log = JsonLog.open(at('c.jsonl'), 1);
  log.close();
  log.close();
});

test('a full disk is a typed error', async () => {
  const small = mkdtempSync(at('small-'));
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', small], { stdio: 'ignore' });
  } catch {
    return; // Only root may mount.
  }
  try {
    using logs = TrainingLogs.open(small, 0, { tensorboard: true });
    const fill = (): void => {
      for (let step = 1; step < 10_000; step++) logs.scalars(step, 'train', { loss: 1 });
    };
    await assertRejects(fill, 'ERR_FILE', 'ENOSPC', small);
  } finally {
    execFileSync('umount', [small]);
  }
});

test('the reader of this test knows CRC-32C', () => {
  // RFC 3720, appendix B.4: 32 bytes of zeros, of ones, and 0 to 31.
  assert.is(crc32c(Buffer.from('123456789')), 0xe3069283);
  assert.is(crc32c(new Uint8Array(32)), 0x8a9136aa);
  assert.is(crc32c(new Uint8Array(32).fill(255)), 0x62a8ab43);
  assert.is(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e);
});

test('event files hold scalars and pictures as TensorBoard reads them', async () => {
  const png = await sharp({ create: { width: 5, height: 3, channels: 3, background: 'red' } }).png().toBuffer();
  using file = EventFile.open(at('events'), 0);
  const steps = [1, 127, 128, 300_000, 2 ** 33];
  for (const step of steps) file.scalars(step, { 'train/loss': step / 3, 'train/lr': 1e-5 });
  file.image(7, 'reconstructions', { png, width: 5, height: 3 });
  file.scalars(8, { bad: NaN, huge: 1e300 });
  file.close();
  const bytes = readFileSync(file.path);
  // The first bytes of every file that TensorFlow writes: 24 bytes follow, and the masked checksum of that number.
  assert.is(bytes.toString('hex', 0, 13), '1800000000000000a37f4b2209');
  const [version, start, ...rest] = records(bytes).map(readEvent);
  assert.is(version?.fileVersion, 'brain.Event:2');
  assert.is(start?.restarted, true);
  assert.ok(Math.abs((version?.wallTime ?? 0) - Date.now() / 1000) < 60);
  assert.equal(rest.slice(0, 5).map(({ step, scalars }) => [step, scalars]), steps.map((step) => [step, { 'train/loss': Math.fround(step / 3), 'train/lr': Math.fround(1e-5) }]));
  assert.equal(rest[5]?.images, { reconstructions: { height: 3, width: 5, colourSpace: 3, png } });
  assert.is(rest[5]?.step, 7);
  assert.ok(Number.isNaN(rest[6]?.scalars['bad']));
  assert.is(rest[6]?.scalars['huge'], Infinity);
  assert.is(rest.length, 7);
  assert.match(file.path, /\/events\.out\.tfevents\.\d{10}\./);
}); // prettier-ignore

test('logs of a run that is resumed twice have every step once', () => {
  const run = mkdtempSync(at('run-'));
  const train = (from: number, to: number): void => {
    using logs = TrainingLogs.open(run, from, { tensorboard: true });
    assert.equal(logs.entries.map(({ step }) => step), Array.from({ length: from }, (_, i) => i + 1));
    for (let step = from + 1; step <= to; step++) logs.scalars(step, 'train', { loss: step });
  }; // prettier-ignore
  train(0, 6);
  train(4, 8);
  train(8, 9);
  const json = readJsonLog(join(run, 'log.jsonl'));
  assert.equal(json.map(({ step, kind, loss }) => [step, kind, loss]), [1, 2, 3, 4, 5, 6, 7, 8, 9].map((n) => [n, 'train', n])); // prettier-ignore
  // What TensorBoard does: a START drops all events from its step on.
  let shown: ReadEvent[] = [];
  for (const event of events(join(run, 'tensorboard'))) {
    if (event.restarted) shown = shown.filter(({ step }) => step < event.step);
    else if (event.fileVersion === undefined) shown.push(event);
  }
  assert.equal(shown.map(({ step, scalars }) => [step, scalars['train/loss']]), [1, 2, 3, 4, 5, 6, 7, 8, 9].map((n) => [n, n])); // prettier-ignore
});

test('without TensorBoard there is no folder for it', () => {
  const run = mkdtempSync(at('plain-'));
  using logs = TrainingLogs.open(run, 0, { tensorboard: false });
  logs.scalars(1, 'train', { loss: 1 });
  logs.image(1, 'x', { png: new Uint8Array(1), width: 1, height: 1 });
  logs.event(1, 'skipped', { reason: 'loss is NaN' });
  assert.equal(readdirSync(run), ['log.jsonl']);
  assert.equal(logs.entries.map(({ kind }) => kind), ['train', 'skipped']);
}); // prettier-ignore

function collected(isTTY: boolean): { stream: ConsoleStream; text: () => string } {
  const stream = Object.assign(new PassThrough(), { isTTY, columns: 200 });
  let text = '';
  stream.on('data', (chunk: Buffer) => (text += chunk.toString()));
  return { stream, text: () => text };
}

const progress = {
  steps: 1000,
  loss: 0.34567,
  identitiesPerSecond: 12.345,
  dataWait: 0.0123,
  learningRate: 3e-4,
};

test('in a pipe there are lines for the first step, those of the log, and when there was none for long', () => {
  const { stream, text } = collected(false);
  let now = 0;
  const lines = new TrainingConsole({ steps: 1000, stream, now: () => now });
  lines.start(100);
  const told = (step: number, seconds: number, due: boolean): void => {
    now = seconds;
    lines.update({ step, ...progress }, due);
  };
  told(101, 1, false);
  told(102, 20, false);
  told(103, 21, false);
  told(104, 22, false);
  told(200, 40, true);
  now = 59;
  lines.between('held-out people', 8, 64);
  now = 60;
  lines.between('held-out people', 16, 64);
  lines.note('saved');
  lines.stop();
  const line = (step: number, left: string): string =>
    `step ${step}/1000 | loss 0.3457 | 12.3 identities/s | data wait 1.2 % | lr 3.00e-4 | ${left} left`;
  // 100 steps in 40 s: 800 more take 320 s.
  assert.equal(text().trimEnd().split('\n'), [
    line(101, '14m59s'), line(103, '1h44m'), line(200, '5m20s'), 'held-out people 16/64', 'saved',
  ]);
}); // prettier-ignore

test('on a terminal there is a bar', () => {
  const { stream, text } = collected(true);
  let now = 0;
  const bar = new TrainingConsole({ steps: 10, stream, now: () => now });
  bar.start(0);
  now = 10;
  bar.note('a note');
  bar.update({ step: 5, ...progress }, false);
  bar.stop();
  for (const part of ['step 5/10', 'loss 0.3457', '50%', '10s left', 'a note\n', '\x1b['])
    assert.ok(text().includes(part), `${part} is not in ${JSON.stringify(text())}`);
  assert.is(process.listenerCount('SIGINT'), 0);
});

test('a bar without an estimate leaves the time open', () => {
  const { stream, text } = collected(true);
  const bar = progressBar('packing', stream);
  bar.update(0, 10);
  bar.update(0, 10);
  bar.stop();
  assert.match(text(), '0/10 | ? left');
  assert.not.match(text(), /NULL|INF|NF|Infinity/);
});

test('durations', () => {
  assert.equal(
    [0, 59.4, 75, 5000, 90_000, NaN, Infinity].map(duration),
    ['0s', '59s', '1m15s', '1h23m', '1d01h', '?', '?'],
  ); // prettier-ignore
});

const program = ['--import', 'tsx', join(import.meta.dirname, 'support/stop_signals.ts')];

for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  // prettier-ignore
  test(`${signal} lets the step be finished`, async () => {
    const ended = await runProgram(process.execPath, program, {
      onStart: (child) => child.stdout?.once('data', () => child.kill(signal)),
    });
    assert.equal(ended, { code, signal: null, stdout: `ready\nstopping ${signal}\nsaved\n`, stderr: '' });
  });

  test(`a second signal after ${signal} ends the process at once`, async () => {
    const ended = await runProgram(process.execPath, [...program, 'slow'], {
      onStart: (child) => child.stdout?.on('data', () => child.kill(signal)),
    });
    assert.equal(ended, { code, signal: null, stdout: `ready\nstopping ${signal}\n`, stderr: '' });
  });
}

test.after(() => {
  rmSync(scratch, { recursive: true, force: true });
});
test.run();
