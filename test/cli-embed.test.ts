// `omni-id embed` as a shell meets it: tokens in every form, photos that cannot be used, interruption, and readers that go away.
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { OmniIdEncoder } from '../src/index.js';
import { assertClose, worstCosine } from './support/assert_close.js';
import {
  assertEnded,
  at,
  cleanUp,
  cli,
  fail,
  omniId,
  people,
  photosOf,
  prepare,
  readTokens,
  succeed,
  weights,
  type EmbedResult,
} from './support/cli.js';
import { absentDevices } from './support/devices.js';
import { runProgram, type ProgramOptions } from './support/process.js';

test.before(prepare);

test('embed agrees with the API, in every grouping and format', async () => {
  await using encoder = await OmniIdEncoder.load(weights);
  const names = readdirSync(people);
  const photos = names.map(photosOf);
  const groupings = {
    folder: { names, identities: photos },
    file: { names: photos.flat(), identities: photos.flat().map((photo) => [photo]) },
    all: { names: ['all'], identities: [photos.flat()] },
  };
  for (const [group, { names: expectedNames, identities }] of Object.entries(groupings)) {
    const expected = await encoder.embed(identities);
    for (const ending of ['safetensors', 'npy', 'json']) {
      const out = at(`${group}.${ending}`);
      const stdout = await succeed('embed', people, '--weights', weights, '--group', group, '--out', out);
      const counted = identities.length === 1 ? '1 identity' : `${identities.length} identities`;
      assert.match(stdout, `${counted}, tokens [${expected.shape.join(', ')}] written to ${out}`);
      const tokens = await readTokens(out);
      assert.equal(tokens.shape, [identities.length, 64, 384]);
      assertClose(tokens.data, expected.data, 0, `${group} as ${ending}`);
      if (ending !== 'npy') assert.equal(tokens.names, expectedNames);
    }
  }
});

test('embed --json', async () => {
  const out = at('json.npy');
  const options = ['embed', join('people', 'rendered-2'), join('people', 'rendered-1', 'view-1.png')];
  const stdout = await succeed(
    ...options,
    '--weights',
    'nano',
    '--device',
    'cpu',
    '--threads',
    '1',
    '--dtype',
    'f32',
    '--out',
    out,
    '--json',
  );
  const result = JSON.parse(stdout) as EmbedResult;
  assert.equal(result.shape, [2, 64, 384]);
  assert.equal(result.identities, [
    { name: 'rendered-2', photos: 3 },
    { name: 'rendered-1', photos: 1 },
  ]);
  assert.equal(result.failed, []);
  assert.ok(result.photosPerSecond > 0);
  assert.is(result.out, out);
  assert.equal([result.info.device, result.info.dtype, result.info.threads], ['cpu', 'f32', 1]);
  await using encoder = await OmniIdEncoder.load(weights, { device: 'cpu', dtype: 'f32' });
  const expected = await encoder.embed([photosOf('rendered-2'), photosOf('rendered-1').slice(0, 1)]);
  assertClose((await readTokens(out)).data, expected.data, 0, 'f32');
});

test('embed without weights says so, and prints when there is no --out', async () => {
  const ended = await omniId(['embed', join(people, 'rendered-1'), '--device', 'cpu']);
  assertEnded(ended, 0);
  assert.match(ended.stderr, /^omni-id: no --weights: [^\n]*untrained[^\n]*\n$/);
  assert.match(ended.stdout, 'rendered-1: 4 photos\n1 identity, tokens [1, 64, 384]\n');
  const one = await omniId(['embed', photosOf('rendered-1')[0] ?? '']);
  assertEnded(one, 0);
  assert.match(one.stdout, 'rendered-1: 1 photo\n1 identity, tokens [1, 64, 384]\n');
  assert.match(one.stdout, /, 1 photo in \d/);
});

test('an output that cannot be is refused before any work', async () => {
  // Work would begin with the warning that there are no weights.
  const file = { exit: 1, code: 'ERR_FILE' };
  for (const out of ['tokens.txt', 'tokens']) {
    const ended = await fail(['embed', people, '--out', at(out)], {
      exit: 2,
      code: 'ERR_INVALID_ARGUMENT',
      words: [at(out), '.safetensors, .npy, .json'],
    });
    assert.not.match(ended.stderr, 'no --weights');
  }
  const ended = await fail(['embed', people, '--out', at('gone/tokens.npy')], {
    ...file,
    words: [at('gone'), 'ENOENT'],
  });
  assert.not.match(ended.stderr, 'no --weights');
  assert.not(existsSync(at('gone')));
});

test('photos that cannot be used are named and left out', async () => {
  const mixed = at('mixed');
  cpSync(people, mixed, { recursive: true });
  const cut = join(mixed, 'rendered-1/view-2.png');
  writeFileSync(cut, readFileSync(cut).subarray(0, 20_000));
  // An identity without any good photo, between others: those after it keep their names.
  mkdirSync(join(mixed, 'rendered-1b'));
  cpSync(cut, join(mixed, 'rendered-1b/only.png'));

  const out = at('mixed.safetensors');
  const options = ['embed', mixed, '--weights', weights, '--out', out];
  const ended = await omniId(options);
  assertEnded(ended, 1);
  assert.is(ended.stderr.trimEnd().split('\n').length, 2, ended.stderr);
  for (const path of [cut, join(mixed, 'rendered-1b/only.png')]) {
    assert.match(ended.stderr, new RegExp(`^omni-id: left out: [^\n]*${path}`, 'm'));
  }
  assert.match(
    ended.stdout,
    'rendered-1: 3 photos\nrendered-2: 3 photos\nrendered-3: 4 photos\n3 identities',
  );

  const tokens = await readTokens(out);
  assert.equal(tokens.names, ['rendered-1', 'rendered-2', 'rendered-3']);
  await using encoder = await OmniIdEncoder.load(weights);
  const good = photosOf('rendered-1').filter((path) => basename(path) !== 'view-2.png');
  // Other photos share a batch here: the same up to rounding.
  const expected = await encoder.embed([good, photosOf('rendered-2'), photosOf('rendered-3')]);
  assert.equal(tokens.shape, expected.shape);
  assert.ok(worstCosine(tokens.data, expected.data, 384) >= 0.9999);

  const json = await omniId([...options, '--json']);
  assertEnded(json, 1);
  const result = JSON.parse(json.stdout) as EmbedResult;
  assert.equal(result.shape, [3, 64, 384]);
  assert.equal(
    result.failed.map(({ identity, photo, code }) => ({ identity, photo, code })),
    [
      { identity: 'rendered-1', photo: cut, code: 'ERR_IMAGE_UNREADABLE' },
      { identity: 'rendered-1b', photo: join(mixed, 'rendered-1b/only.png'), code: 'ERR_IMAGE_UNREADABLE' },
    ],
  );
  assert.match(result.failed[0]?.message ?? '', cut);
});

test('no photo that can be used', async () => {
  const bad = at('bad');
  mkdirSync(bad);
  for (const name of ['a.png', 'b.jpg']) writeFileSync(join(bad, name), 'not an image');
  const out = at('bad.npy');
  mkdirSync(at('a folder.npy'));
  const ended = await omniId(['embed', bad, '--weights', weights, '--out', out]);
  assertEnded(ended, 1);
  for (const name of ['a.png', 'b.jpg']) assert.match(ended.stderr, join(bad, name));
  assert.match(ended.stdout, '0 identities, tokens [0, 64, 384], nothing written\n');
  assert.not(existsSync(out), 'of no identity there is nothing to write');
  // What was there before stays, and is not named as written.
  writeFileSync(out, 'older');
  const json = await omniId(['embed', bad, '--weights', weights, '--out', out, '--json']);
  assertEnded(json, 1);
  assert.not('out' in (JSON.parse(json.stdout) as EmbedResult));
  assert.is(readFileSync(out, 'utf8'), 'older');
  await fail(['embed', bad, '--weights', weights, '--out', at('a folder.npy')], {
    exit: 1,
    code: 'ERR_FILE',
    words: ['a folder.npy', 'folder'],
  });
});

test('no photos, and paths that there are not', async () => {
  mkdirSync(at('empty/inside'), { recursive: true });
  writeFileSync(at('empty/inside/notes.txt'), '');
  const usage = { exit: 2, code: 'ERR_INVALID_ARGUMENT' };
  const model = join(weights, 'model.safetensors');
  await fail(['embed', people, '--weights', weights, '--out', model], { ...usage, words: ['which is read'] });
  await fail(['embed', at('empty')], { ...usage, words: ['no photos', at('empty'), '.png'] });
  const missing = ['embed', people, '--weights', at('nowhere'), '--out', at('never.npy')];
  await fail(missing, { exit: 1, code: 'ERR_FILE', words: [at('nowhere')] });
  assert.not(existsSync(at('never.npy')));
});

test('a photo that is not there is named, and the others are embedded', async () => {
  const options = ['embed', join(people, 'rendered-1'), at('nowhere.png'), '--weights', weights];
  const out = at('others.npy');
  const ended = await omniId([...options, '--out', out]);
  assertEnded(ended, 1);
  assert.match(ended.stderr, new RegExp(`^omni-id: left out: [^\n]*${at('nowhere.png')}[^\n]*\n$`));
  assert.match(ended.stdout, `rendered-1: 4 photos\n1 identity, tokens [1, 64, 384] written to ${out}\n`);
  await using encoder = await OmniIdEncoder.load(weights);
  const expected = await encoder.embed([photosOf('rendered-1')]);
  assert.ok(worstCosine((await readTokens(out)).data, expected.data, 384) >= 0.9999);

  const json = await omniId([...options, '--json']);
  assertEnded(json, 1);
  const { failed } = JSON.parse(json.stdout) as EmbedResult;
  assert.is(failed.length, 1);
  assert.is(failed[0]?.code, 'ERR_IMAGE_NOT_FOUND');
  assert.is(failed[0]?.photo, at('nowhere.png'));
});

test('a folder with more photos than the stack has room for', async () => {
  // A tenth of the usual stack, so that a tenth of the photos do.
  const many = at('many');
  mkdirSync(many);
  for (let i = 0; i < 14_000; i++) writeFileSync(join(many, `${i}.png`), '');
  const options = ['--stack-size=100', cli, 'embed', many, '--weights', at('nowhere'), '--json'];
  const ended = await runProgram(process.execPath, options);
  assertEnded(ended, 1);
  // All were listed: what fails is what comes next.
  const { error } = JSON.parse(ended.stdout) as { error: { message: string } };
  assert.match(error.message, at('nowhere'));
});

test('devices and threads that there are not', async () => {
  const options = ['embed', people, '--weights', weights];
  const usage = { exit: 2, code: 'ERR_INVALID_ARGUMENT' };
  for (const device of absentDevices())
    await fail([...options, '--device', device], {
      exit: 1,
      code: 'ERR_DEVICE_UNAVAILABLE',
      words: [JSON.stringify(device), '"cpu"'],
    });
  await fail([...options, '--device', 'abacus'], { ...usage, words: ['--device', 'abacus', '"cpu"'] });
  const onCpu = [...options, '--device', 'cpu'];
  await fail([...onCpu, '--threads', '0'], { ...usage, words: ['--threads', '1 to 1024'] });
  await fail([...onCpu, '--threads', '1.5'], { ...usage, words: ['--threads', 'whole number'] });
});

/** Thousands of photos: more than half a minute of work on two processors. */
const endless = ['embed', ...Array.from({ length: 600 }, () => people), '--group', 'file'];

test('Ctrl-C stops a long embed, and an older output stays', async () => {
  const folder = at('interrupted');
  mkdirSync(folder);
  writeFileSync(join(folder, 'tokens.npy'), 'older');
  let interrupted = 0;
  const interrupt: ProgramOptions = {
    // The warning that there are no weights comes when work begins; half a second later it is under way.
    onStart: (child) => {
      child.stderr?.once('data', () => {
        setTimeout(() => {
          interrupted = performance.now();
          child.kill('SIGINT');
        }, 500);
      });
    },
  };
  for (const json of [false, true]) {
    const options = [...endless, '--out', join(folder, 'tokens.npy'), ...(json ? ['--json'] : [])];
    const ended = await omniId(options, interrupt);
    const stoppedMs = performance.now() - interrupted;
    assertEnded(ended, 130);
    assert.ok(stoppedMs < 2000, `stopped after ${stoppedMs} ms`);
    if (json) {
      const message = 'interrupted';
      assert.equal(JSON.parse(ended.stdout), { error: { code: 'ERR_INTERRUPTED', message } });
    } else {
      assert.is(ended.stdout, '');
      assert.match(ended.stderr, /\nomni-id: interrupted\n$/);
    }
    assert.equal(readdirSync(folder), ['tokens.npy']);
    assert.is(readFileSync(join(folder, 'tokens.npy'), 'utf8'), 'older');
  }
});

test('a reader that goes away ends the output, not the work', async () => {
  for (const stream of ['stdout', 'stderr'] as const) {
    // Without weights there is a warning on stderr; every photo is a line on stdout.
    const out = at(`no ${stream}.npy`);
    const ended = await omniId(['embed', people, '--group', 'file', '--out', out], {
      onStart: (child) => child[stream]?.destroy(),
    });
    assertEnded(ended, 0);
    assert.equal((await readTokens(out)).shape, [11, 64, 384]);
  }
  const shell = `"$0" "$@" | head -n 1; "$0" "$@" 2>&1 | head -n 1`;
  const options = ['-c', shell, process.execPath, cli, 'embed', people, '--group', 'file'];
  const ended = await runProgram('sh', options);
  assertEnded(ended, 0);
  const [first, second, ...rest] = ended.stdout.trimEnd().split('\n');
  assert.is(first, `${photosOf('rendered-1')[0]}: 1 photo`);
  assert.match(second ?? '', 'no --weights');
  assert.equal(rest, []);
});

test.after(cleanUp);

test.run();
