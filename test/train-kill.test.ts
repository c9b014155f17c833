// A run that is killed with SIGKILL at 20 moments, from its start on, and resumed each time: the same weights at its end, and nothing left behind.
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { cleanUp as cleanUpCli, cli } from './support/cli.js';
import { write } from './support/people.js';
import { runProgram, type Ended } from './support/process.js';
import { NormalNumbers } from './support/normal.js';
import { assertSameRun, at, cleanUp, logged, newRun, run, tinyJson } from './support/tiny_run.js';

test.after(() => {
  cleanUp();
  cleanUpCli();
});

const kills = 20;
const steps = 500;
const settings = [
  `steps=${steps}`,
  'checkpoints.every=2',
  'checkpoints.keepLast=2',
  'log.evaluateEvery=10',
  'log.imagesEvery=50',
  'dtype=bf16',
];

test(`killed ${kills} times, and resumed`, async () => {
  const folder = newRun();
  const config = at('kill.json');
  // Its photos are rendered into the run's folder: what is killed in the middle of that begins it again.
  write(config, JSON.stringify({ ...tinyJson, data: { ...tinyJson.data, cache: undefined } }));
  const numbers = new NormalNumbers(2026);
  const reached: number[] = [];

  /** @param lines of the console after which it is killed; undefined: it is not */
  const start = (lines?: number): Promise<Ended> =>
    runProgram(
      process.execPath,
      [
        cli,
        ...['train', config, '--out', folder],
        ...settings.flatMap((one) => ['--set', one]),
        ...(existsSync(join(folder, 'config.json')) ? ['--resume'] : []),
      ],
      {
        // The last one makes 300 steps with 150 checkpoints: a minute is short for that on a busy machine.
        timeoutMs: 200_000,
        onStart: (child) => {
          if (lines === undefined) return;
          let left = lines;
          child.stderr?.on('data', () => {
            // A step with its checkpoint takes some 10 ms: any point of it.
            if (left-- === 0) setTimeout(() => child.kill('SIGKILL'), 15 * numbers.uniform());
          });
        },
      },
    );

  for (let round = 0; round < kills; round++) {
    // The first ones while photos are rendered, which tells so in ten lines; then within their first steps.
    const ended = await start(Math.floor((round < 4 ? 8 : 28) * numbers.uniform()));
    assert.is(ended.signal, 'SIGKILL', JSON.stringify(ended));
    assert.not.match(ended.stderr, 'is damaged');
    reached.push(existsSync(join(folder, 'log.jsonl')) ? logged(folder, 'loss').length : 0);
  }
  const ended = await start();
  assert.is(ended.code, 0, JSON.stringify(ended));
  assert.ok((reached.at(-1) ?? 0) > 100, `the run was at steps ${reached.join(', ')} when it was killed`);
  console.log(`  killed at steps ${reached.join(', ')} of ${steps}`);

  const whole = await run(settings);
  assertSameRun(folder, whole.folder, steps);
  assert.equal(logged(folder, 'loss'), logged(whole.folder, 'loss'));
  assert.equal(logged(folder, 'loss', 'held_out'), logged(whole.folder, 'loss', 'held_out'));
  const all = readdirSync(folder, { recursive: true, encoding: 'utf8' });
  assert.equal(
    all.filter((name) => /(^|\/)\./.test(name) || name.includes('lock')),
    [],
  );
  assert.is(readdirSync(join(folder, 'data')).length, 1);
});

test.run();
