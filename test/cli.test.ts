// The command line as a shell meets it: the built dist/cli.js in processes of its own, its exit codes, what it prints where, and what it leaves on disk.
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { OmniIdEncoder } from '../src/index.js';
import { packedCachePath } from '../src/io/packed_cache.js';
import { readSafetensors, readSafetensorsHeader } from '../src/io/safetensors.js';
import { assertClose, worstCosine } from './support/assert_close.js';
import { golden } from './support/golden.js';
import { runProgram, type Ended, type ProgramOptions } from './support/process.js';

const root = join(import.meta.dirname, '..');
const cli = join(root, 'dist/cli.js');
assert.ok(existsSync(cli), `${cli} is not there: run "npm run build:ts" first`);
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };

const scratch = mkdtempSync(join(tmpdir(), 'omni-id-cli-'));
const at = (...names: string[]): string => join(scratch, ...names);

function omniId(options: readonly string[], settings: ProgramOptions = {}): Promise<Ended> {
  return runProgram(process.execPath, [cli, ...options], { cwd: scratch, ...settings });
}

/** Fails unless the command ended with this code, and not by a signal or with a stack trace. */
function assertEnded(ended: Ended, code: number): void {
  const all = JSON.stringify(ended, null, 2);
  assert.is(ended.code, code, all);
  assert.not.match(ended.stderr, /\n {4}at /, all);
  // What a progress bar or colours would write: nothing here is a terminal.
  // eslint-disable-next-line no-control-regex
  assert.not.match(ended.stdout + ended.stderr, /[\r\x1b]/, all);
}

/** Runs a command that must succeed and have nothing to warn of; its stdout. */
async function succeed(...options: string[]): Promise<string> {
  const ended = await omniId(options);
  assertEnded(ended, 0);
  assert.is(ended.stderr, '');
  return ended.stdout;
}

/** Runs a command that must fail, with and without --json, and say the same; the words are looked for in its message. */
async function fail(
  options: readonly string[],
  expected: { exit: number; code: string; words: readonly string[] },
): Promise<Ended> {
  const [plain, json] = await Promise.all([omniId(options), omniId([...options, '--json'])]);
  assertEnded(plain, expected.exit);
  assert.is(plain.stdout, '');
  assertEnded(json, expected.exit);
  const { error } = JSON.parse(json.stdout) as { error: { code: string; message: string } };
  assert.is(error.code, expected.code);
  assert.ok(plain.stderr.includes(error.message), `"${error.message}" is not in ${plain.stderr}`);
  for (const word of expected.words)
    assert.ok(error.message.includes(word), `"${word}" is not in: ${error.message}`);
  return plain;
}

interface EmbedResult {
  readonly shape: readonly number[];
  readonly identities: readonly { name: string; photos: number }[];
  readonly failed: readonly { code: string; message: string }[];
  readonly photosPerSecond: number;
  readonly out?: string;
  readonly info: { device: string; dtype: string; threads: number };
}

/** The tokens of an `--out` file, whatever its ending. */
async function readTokens(
  path: string,
): Promise<{ shape: readonly number[]; data: Float32Array; names?: string[] }> {
  if (path.endsWith('.safetensors')) {
    const { metadata } = await readSafetensorsHeader(path);
    const tensor = (await readSafetensors(path)).get('tokens');
    if (!(tensor?.data instanceof Float32Array)) throw new Error(`${path} has no f32 tensor "tokens"`);
    const names = JSON.parse(metadata.get('identities') ?? 'null') as string[];
    return { shape: tensor.shape, data: tensor.data, names };
  }
  const bytes = readFileSync(path);
  if (path.endsWith('.json')) {
    const { shape, identities } = JSON.parse(bytes.toString()) as {
      shape: number[];
      identities: { name: string; tokens: number[][] }[];
    };
    const data = Float32Array.from(identities.flatMap(({ tokens }) => tokens.flat()));
    return { shape, data, names: identities.map(({ name }) => name) };
  }
  assert.is(bytes.toString('latin1', 0, 8), '\x93NUMPY\x01\x00');
  const start = 10 + bytes.readUInt16LE(8);
  assert.is(start % 64, 0);
  const head = bytes.toString('latin1', 10, start);
  assert.match(head, "'descr': '<f4', 'fortran_order': False");
  const shape = (/\(([^)]*)\)/.exec(head)?.[1] ?? '').split(',').map(Number);
  return { shape, data: new Float32Array(new Uint8Array(bytes.subarray(start)).buffer) };
}

const weights = at('nano');
const people = at('people');
const photosOf = (name: string): string[] =>
  readdirSync(join(people, name)).map((file) => join(people, name, file));

test.before(async () => {
  for (const name of ['rendered-1', 'rendered-2', 'rendered-3']) {
    cpSync(join(root, 'examples/photos', name), join(people, name), { recursive: true });
  }
  rmSync(join(people, 'rendered-2/view-4.png'));
  assert.match(await succeed('init', 'nano', '--out', weights, '--seed', '7'), 'nano');
});

test('version and help', async () => {
  assert.is(await succeed('--version'), `${version}\n`);
  const help = await succeed('--help');
  for (const word of ['embed', 'init', 'convert', 'info', 'Exit codes']) assert.match(help, word);
  assert.match(await succeed('embed', '--help'), '--weights');
  assert.match(await succeed('help', 'convert'), '--pack');
});

test('commands and options that there are not', async () => {
  const nothing = await omniId([]);
  assertEnded(nothing, 2);
  assert.match(nothing.stderr, 'Usage: omni-id');
  const usage = { exit: 2, code: 'ERR_INVALID_ARGUMENT' };
  await fail(['frobnicate'], { ...usage, words: ["'frobnicate'"] });
  await fail(['info', '--frobnicate'], { ...usage, words: ["'--frobnicate'"] });
  await fail(['embed'], { ...usage, words: ["'paths'"] });
  await fail(['init', 'nano'], { ...usage, words: ['--out'] });
  await fail(['init', 'nano', '--out', at('never'), '--seed', '-1'], {
    ...usage,
    words: ['--seed', 'whole number'],
  });
  await fail(['embed', people, '--group', 'hair'], { ...usage, words: ['folder', 'file', 'all'] });
  await fail(['embed', people, '--dtype', 'f16'], { ...usage, words: ['bf16', 'f32'] });
  assert.not(existsSync(at('never')));
});

test('init', async () => {
  const out = at('other seed');
  const result = JSON.parse(await succeed('init', 'nano', '--out', out, '--seed', '8', '--json')) as unknown;
  assert.equal(result, { out, preset: 'nano', seed: 8, tokens: 64, width: 384 });

  // The same bytes as through the API, and others than of another seed.
  await using encoder = await OmniIdEncoder.create('nano', { seed: 8 });
  await encoder.save(at('by API'));
  const read = (folder: string, file: string): Buffer => readFileSync(join(folder, file));
  for (const file of ['config.json', 'model.safetensors'])
    assert.ok(read(out, file).equals(read(at('by API'), file)));
  assert.not(read(out, 'model.safetensors').equals(read(weights, 'model.safetensors')));

  const usage = { exit: 2, code: 'ERR_INVALID_ARGUMENT' };
  await fail(['init', 'huge', '--out', at('huge')], { ...usage, words: ['"huge"', 'nano', 'h'] });
  await fail(['init', 'nano', '--out', at('no/such/parent')], {
    exit: 1,
    code: 'ERR_FILE',
    words: [at('no/such/parent')],
  });
  assert.not(existsSync(at('huge')));
  assert.not(existsSync(at('no')));
});

test('init from a CLIP model', async () => {
  const { folder, config } = await golden('clip_vision_gelu');
  await succeed('init', 'nano', '--out', at('on CLIP'), '--clip', folder, '--dtype', 'f16');
  const path = at('on CLIP', 'model.safetensors');
  const { tensors } = await readSafetensorsHeader(path);
  assert.ok([...tensors.values()].every(({ dtype }) => dtype === 'F16'));
  assert.equal(tensors.get('vision_model.embeddings.class_embedding')?.shape, [config['hidden_size']]);
});

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
      assert.match(
        stdout,
        `${identities.length} identities, tokens [${expected.shape.join(', ')}] written to ${out}`,
      );
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
  await using encoder = await OmniIdEncoder.load(weights, { dtype: 'f32' });
  const expected = await encoder.embed([photosOf('rendered-2'), photosOf('rendered-1').slice(0, 1)]);
  assertClose((await readTokens(out)).data, expected.data, 0, 'f32');
});

test('embed without weights says so, and prints when there is no --out', async () => {
  const ended = await omniId(['embed', join(people, 'rendered-1'), '--device', 'cpu']);
  assertEnded(ended, 0);
  assert.match(ended.stderr, /^omni-id: no --weights: [^\n]*untrained[^\n]*\n$/);
  assert.match(ended.stdout, 'rendered-1: 4 photos\n1 identities, tokens [1, 64, 384]\n');
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
    result.failed.map(({ code }) => code),
    ['ERR_IMAGE_UNREADABLE', 'ERR_IMAGE_UNREADABLE'],
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
  assert.match(ended.stdout, '0 identities');
  assert.not(existsSync(out), 'of no identity there is nothing to write');
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
  await fail(['embed', at('empty')], { ...usage, words: ['no photos', at('empty'), '.png'] });
  await fail(['embed', people, at('nowhere')], { exit: 1, code: 'ERR_FILE', words: [at('nowhere')] });
  const missing = ['embed', people, '--weights', at('nowhere'), '--out', at('never.npy')];
  await fail(missing, { exit: 1, code: 'ERR_FILE', words: [at('nowhere')] });
  assert.not(existsSync(at('never.npy')));
});

test('devices and threads that there are not', async () => {
  const options = ['embed', people, '--weights', weights];
  const usage = { exit: 2, code: 'ERR_INVALID_ARGUMENT' };
  await fail([...options, '--device', 'cuda'], {
    exit: 1,
    code: 'ERR_DEVICE_UNAVAILABLE',
    words: ['"cuda"', '"cpu"'],
  });
  await fail([...options, '--device', 'abacus'], { ...usage, words: ['"abacus"', '"cpu"'] });
  await fail([...options, '--threads', '0'], { ...usage, words: ['threads is 0', '1 to 1024'] });
  await fail([...options, '--threads', '1.5'], { ...usage, words: ['--threads', 'whole number'] });
});

test('convert to another type and back', async () => {
  const halved = at('bf16');
  assert.match(
    await succeed('convert', weights, '--out', halved, '--dtype', 'bf16'),
    `${halved}: omni-id model`,
  );
  const dtypes = async (folder: string): Promise<Set<string>> => {
    const { tensors } = await readSafetensorsHeader(join(folder, 'model.safetensors'));
    return new Set([...tensors.values()].map(({ dtype }) => dtype));
  };
  assert.equal(await dtypes(halved), new Set(['BF16']));
  const widened = JSON.parse(await succeed('convert', halved, '--out', at('f32'), '--json')) as unknown;
  assert.equal(widened, { source: halved, out: at('f32'), kind: 'omni-id' });
  assert.equal(await dtypes(at('f32')), new Set(['F32']));
  // Onto itself: the old weights are read while the new are written.
  await succeed('convert', at('f32'), '--out', at('f32'), '--dtype', 'bf16');
  const read = (folder: string): Buffer => readFileSync(join(folder, 'model.safetensors'));
  assert.ok(read(at('f32')).equals(read(halved)));

  const tokens = async (folder: string): Promise<Float32Array> => {
    await using encoder = await OmniIdEncoder.load(folder);
    return (await encoder.embed([photosOf('rendered-1')])).data;
  };
  assert.ok(worstCosine(await tokens(halved), await tokens(weights), 384) >= 0.999);
});

test('convert --pack', async () => {
  const packed = at('packed');
  cpSync(weights, packed, { recursive: true });
  const embedded = async (name: string): Promise<Float32Array> => {
    await succeed('embed', people, '--weights', packed, '--out', at(name));
    return (await readTokens(at(name))).data;
  };
  const before = await embedded('before.npy');
  assert.match(await succeed('convert', packed, '--pack'), 'packed cache written');
  assert.ok(existsSync(packedCachePath(packed, 'bf16')));
  assertClose(await embedded('after.npy'), before, 0, 'with a packed cache');

  const both = JSON.parse(
    await succeed('convert', packed, '--out', at('both'), '--pack', '--json'),
  ) as unknown;
  assert.equal(both, { source: packed, out: at('both'), kind: 'omni-id', packed: at('both') });
  assert.equal(readdirSync(at('both')).sort(), [
    'config.json',
    'model.packed-bf16.safetensors',
    'model.safetensors',
  ]);
});

test('convert that cannot be', async () => {
  const usage = { exit: 2, code: 'ERR_INVALID_ARGUMENT' };
  await fail(['convert', weights], { ...usage, words: ['nothing to do', '--out', '--pack'] });
  await fail(['convert', weights, '--pack', '--dtype', 'f16'], { ...usage, words: ['f32 or bf16', '"f16"'] });
  await fail(['convert', at('nowhere'), '--out', at('never')], {
    exit: 1,
    code: 'ERR_FILE',
    words: [at('nowhere')],
  });
  await fail(['convert', weights, '--out', at('no/parent')], {
    exit: 1,
    code: 'ERR_FILE',
    words: [at('no/parent')],
  });
  assert.not(existsSync(at('never')));
  assert.not(existsSync(at('no')));
});

test('info', async () => {
  const facts = JSON.parse(await succeed('info', '--json')) as Record<string, unknown>;
  assert.is(facts['version'], version);
  assert.is(facts['node'], process.versions.node);
  assert.is(facts['platform'], `${process.platform}-${process.arch}`);
  assert.equal(facts['devices'], ['cpu']);
  const sets = facts['instructionSets'] as string[];
  assert.ok(sets.includes('portable') && sets.includes(String(facts['instructionSet'])));
  assert.ok(Number(facts['threads']) >= 1);
  const text = await succeed('info');
  assert.match(text, `omni-id ${version}`);
  for (const set of sets) assert.match(text, set);
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
  assert.is(first, `${photosOf('rendered-1')[0]}: 1 photos`);
  assert.match(second ?? '', 'no --weights');
  assert.equal(rest, []);
});

test.after(() => {
  rmSync(scratch, { recursive: true, force: true });
});

test.run();
