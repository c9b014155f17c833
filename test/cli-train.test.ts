// `omni-id train` as a shell meets it: exit codes, signals, two processes in one folder.
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import type { ChildProcess } from 'node:child_process';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { assertEnded, at, cleanUp, fail, omniId, succeed } from './support/cli.js';
import { write, writePeople } from './support/people.js';
import { assertSameRun, cleanUp as cleanUpRuns, run, tinyJson } from './support/tiny_run.js';

test.before(() => {
  write(at('tiny.json'), JSON.stringify(tinyJson));
});
test.after(() => {
  cleanUp();
  cleanUpRuns();
});

interface Trained {
  readonly step: number;
  readonly finished: boolean;
  readonly loss: number;
  readonly skipped: number;
  readonly unreadablePhotos: number;
}

test('bad input: what was given and expected, and an exit code', async () => {
  write(at('cut.json'), '{"steps": ');
  write(at('unknown.json'), JSON.stringify({ ...tinyJson, stepz: 3, optimizer: { lr: 1 } }));
  mkdirSync(at('empty'));
  write(at('bad/ann/0.jpg'), 'not a photo');
  write(at('file'), 'text');
  const cases: [options: string[], exit: number, code: string, ...words: string[]][] = [
    [[], 2, 'ERR_INVALID_ARGUMENT', 'a configuration file or --preset'],
    [['tiny.json', '--preset', 'nano-synth'], 2, 'ERR_INVALID_ARGUMENT', 'one of the two'],
    [['--preset', 'pico'], 2, 'ERR_INVALID_ARGUMENT', 'nano-synth'],
    [['cut.json'], 1, 'ERR_CONFIG', 'cut.json is not JSON'],
    [['unknown.json'], 1, 'ERR_CONFIG', '"stepz"', '"lr"'],
    [['tiny.json', '--set', 'steps'], 2, 'ERR_INVALID_ARGUMENT', '--set steps: expected key.path=value'],
    [
      ['tiny.json', '--set', 'sampling.targets=0'],
      2,
      'ERR_INVALID_ARGUMENT',
      'with its settings',
      'sampling.targets is 0',
    ],
    [['--resume'], 2, 'ERR_INVALID_ARGUMENT', 'expected its folder, --out DIR'],
    [['--resume', '--out', 'nothing'], 1, 'ERR_FILE', 'nothing is not there'],
    [['tiny.json', '--out', ''], 2, 'ERR_INVALID_ARGUMENT', '--out is empty'],
    [['tiny.json', '--out', '/proc/x'], 1, 'ERR_FILE', 'cannot make /proc/x'],
    [['tiny.json', '--out', 'bad'], 1, 'ERR_FILE', 'holds ann and no run'],
    [['tiny.json', '--out', 'file'], 1, 'ERR_FILE', 'file'],
    [
      ['tiny.json', '--out', 'nothing', '--resume'],
      1,
      'ERR_FILE',
      'nothing is not there: expected the folder of a run',
    ],
  ];
  await Promise.all(
    cases.map(([options, exit, code, ...words]) => fail(['train', ...options], { exit, code, words })),
  );
  for (const [path, words] of [
    ['empty', 'empty: no identities'],
    ['bad', 'nothing can be read of ann'],
  ] as const) {
    const data = `data={"kind":"folder","path":"${path}","heldOut":{"identities":0}}`;
    const ended = await omniId(['train', 'tiny.json', '--out', 'new', '--set', data, '--json']);
    assertEnded(ended, 1);
    assert.match(ended.stdout, 'ERR_DATASET');
    assert.match(ended.stdout, words);
  }
  assert.not.ok(existsSync(at('nothing')));
  assert.not.ok(existsSync(at('runs')));
});

test('a run, and another attempt at its folder', async () => {
  const ended = await omniId(['train', 'tiny.json', '--out', 'run', '--set', 'steps=4']);
  assertEnded(ended, 0);
  assert.match(ended.stdout, /run: step 4 of 4, loss 0\.\d{4}, held-out loss \d\.\d{4}\n$/);
  assert.match(ended.stderr, 'step 4/4 | loss');
  const refused = await omniId(['train', 'tiny.json', '--out', 'run', '--json']);
  assertEnded(refused, 1);
  assert.match(refused.stdout, 'holds a run that is at step 4');
  const other = await omniId(['train', 'tiny.json', '--out', 'run', '--resume', '--set', 'encoder.tokens=2']);
  assertEnded(other, 1);
  assert.match(other.stderr, 'encoder.tokens was 4 and is now 2');
  const json = await omniId(['train', 'tiny.json', '--out', 'run', '--resume', '--json', '--set', 'steps=6']);
  assertEnded(json, 0);
  const result = JSON.parse(json.stdout) as Trained;
  // Alone, it goes by the configuration that the run has by now.
  const alone = await omniId(['train', '--out', 'run', '--resume', '--json', '--set', 'steps=7']);
  assertEnded(alone, 0);
  assert.is((JSON.parse(alone.stdout) as Trained).step, 7);
  assert.equal([result.step, result.finished, result.skipped, result.unreadablePhotos], [6, true, 0, 0]);
  // What was trained can be used.
  await writePeople(at('people'), { ann: 2 });
  const embedded = JSON.parse(await succeed('embed', 'people', '--weights', 'run/model', '--json')) as { shape: number[] }; // prettier-ignore
  assert.equal(embedded.shape, [1, 4, 32]);
  // The folder of the run is an easy mistake.
  const mistake = { exit: 1, code: 'ERR_CONFIG', words: ['run is the folder of a training run', 'its model is in run/model'] }; // prettier-ignore
  const rebuild = ['reconstruct', '--inputs', 'x', '--target', 'y', '--out', 'z.png'];
  await Promise.all(
    [['embed', 'people'], ['evaluate'], rebuild].map((command) => fail([...command, '--weights', 'run'], mistake)), // prettier-ignore
  );
});

test('the summary tells of photos that could not be read', async () => {
  await writePeople(at('some'), { ann: 4, ben: 4 });
  write(at('some/ben/2.png'), 'not a photo');
  const data = 'data={"kind":"folder","path":"some","heldOut":{"identities":0}}';
  const ended = await omniId(['train', 'tiny.json', '--out', 'on-some', '--set', data]);
  assertEnded(ended, 0);
  assert.match(ended.stdout, '1 photo could not be read');
  assert.match(ended.stderr, '1 photo could not be read and was left out');
});

/** Calls `action` when the program's stderr has had these words. */
function after(child: ChildProcess, words: string, action: () => void): void {
  let seen = '';
  const look = (text: string): void => {
    seen += text;
    if (!seen.includes(words)) return;
    child.stderr?.off('data', look);
    action();
  };
  child.stderr?.on('data', look);
}

test('SIGTERM and SIGINT finish the step, save, and exit; --resume goes on, bit for bit', async () => {
  const long = ['steps=300', 'log.evaluateEvery=null', 'log.imagesEvery=null', 'checkpoints.every=1000'];
  const options = ['train', 'tiny.json', '--out', 'stopped', ...long.flatMap((one) => ['--set', one])];
  for (const [signal, code, resume] of [
    ['SIGTERM', 143, []],
    ['SIGINT', 130, ['--resume']],
  ] as const) {
    // prettier-ignore
    const ended = await omniId([...options, ...resume], {
      onStart: (child) => {
        after(child, signal === 'SIGTERM' ? 'step 40/' : 'step 120/', () => child.kill(signal));
      },
    });
    assertEnded(ended, code);
    assert.match(ended.stderr, `${signal}: finishing the step and saving; once more gives the step up`);
    assert.match(ended.stdout, /stopped: step \d+ of 300, .*; go on with --resume/);
    assert.not.ok(existsSync(at('stopped/train.lock')));
  }
  const ended = await omniId([...options, '--resume', '--json']);
  assertEnded(ended, 0);
  const whole = await run(long);
  assertSameRun(at('stopped'), whole.folder, 300);
  assert.is((JSON.parse(ended.stdout) as Trained).loss, whole.result.loss);
});

test('a signal while photos are rendered: said, and nothing is left behind', async () => {
  const data = 'data={"kind":"rendered","identities":5000,"views":20,"size":112}';
  const ended = await omniId(['train', 'tiny.json', '--out', 'rendering', '--set', data, '--json'], {
    onStart: (child) => {
      after(child, 'rendering photos: 0/100000\n', () => setTimeout(() => child.kill('SIGTERM'), 300));
    },
  });
  assertEnded(ended, 143);
  assert.match(ended.stderr, 'SIGTERM: stopping before the first step');
  const { error } = JSON.parse(ended.stdout) as { error: { code: string; message: string } };
  assert.equal(error, { code: 'ERR_INTERRUPTED', message: 'SIGTERM: ended before the first step' });
  assert.equal(readdirSync(at('rendering')).sort(), ['checkpoints', 'config.json', 'data']);
  assert.equal(readdirSync(at('rendering/data')), []);
});

test('a second signal gives a long step up', async () => {
  // A step of some ten seconds.
  const large = ['encoder={"preset":"nano"}', 'decoders=[{"type":"mtd"}]', 'sampling.identities=64', 'sampling.targets=8', 'data.cache=cache', 'data.heldOut.identities=0']; // prettier-ignore
  const began = performance.now();
  let stopping = NaN;
  const ended = await omniId(['train', 'tiny.json', '--out', 'long', ...large.flatMap((one) => ['--set', one])], {
    timeoutMs: 180_000,
    onStart: (child) => {
      after(child, 'memory: ', () => setTimeout(() => child.kill('SIGINT'), 500));
      after(child, 'SIGINT: finishing the step', () => setTimeout(() => {
        stopping = performance.now();
        child.kill('SIGINT');
      }, 500));
    },
  }); // prettier-ignore
  const seconds = (performance.now() - stopping) / 1000;
  assertEnded(ended, 130);
  assert.match(ended.stderr, 'step 1 was given up; there is no checkpoint yet');
  assert.not.ok(existsSync(at('long/train.lock')));
  assert.equal(readdirSync(at('long/checkpoints')), []);
  console.log(`  stopped ${seconds.toFixed(1)} s after the second signal, ${((stopping - began) / 1000).toFixed(1)} s after the start`); // prettier-ignore
});

test('a second process in one folder is refused while the first trains', async () => {
  const options = ['train', 'tiny.json', '--out', 'shared', '--set', 'steps=100000'];
  let second: Promise<unknown> | undefined;
  const first = await omniId(options, {
    onStart: (child) => {
      after(child, 'step 5/', () => {
        const words = [`process ${child.pid} trains in`, 'shared'];
        second = fail([...options, '--resume'], { exit: 1, code: 'ERR_FILE', words }).finally(() => child.kill('SIGINT')); // prettier-ignore
      });
    },
  });
  assertEnded(first, 130);
  assert.ok(second);
  await second;
  assert.not.ok(readdirSync(at('shared')).includes('train.lock'));
  assert.match(readFileSync(at('shared/config.json'), 'utf8'), '"steps": 100000');
});

test.run();
