// The command line as a shell meets it: its commands and options, what `init`, `convert` and `info` print where, and what they leave on disk.
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { devices } from '../src/graph/devices.js';
import { OmniIdEncoder } from '../src/index.js';
import { packedCachePath } from '../src/io/packed_cache.js';
import { readSafetensorsHeader } from '../src/io/safetensors.js';
import { assertClose, worstCosine } from './support/assert_close.js';
import {
  assertEnded,
  at,
  cleanUp,
  fail,
  omniId,
  people,
  photosOf,
  prepare,
  readTokens,
  succeed,
  version,
  weights,
} from './support/cli.js';
import { golden } from './support/golden.js';

test.before(prepare);

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
  const { stderr } = await fail(['frobnicate'], { ...usage, words: ["'frobnicate'"] });
  assert.is(stderr, "error: unknown command 'frobnicate'\n(--help lists the options)\n");
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
  await succeed('convert', at('f32'), '--out', at('f32'), '--dtype', 'bf16', '--force');
  const read = (folder: string): Buffer => readFileSync(join(folder, 'model.safetensors'));
  assert.ok(read(at('f32')).equals(read(halved)));

  const tokens = async (folder: string): Promise<Float32Array> => {
    await using encoder = await OmniIdEncoder.load(folder);
    return (await encoder.embed([photosOf('rendered-1')])).data;
  };
  assert.ok(worstCosine(await tokens(halved), await tokens(weights), 384) >= 0.999);
});

test('a model that is there is replaced with --force only', async () => {
  const read = (folder: string): string[] =>
    ['config.json', 'model.safetensors'].map((name) => readFileSync(join(folder, name), 'latin1'));
  const full = at('full');
  cpSync(weights, full, { recursive: true });
  const before = read(full);
  const refused = { exit: 1, code: 'ERR_FILE', words: [full, 'config.json', '--force'] };
  await fail(['init', 'nano', '--out', full, '--seed', '9'], refused);
  await fail(['convert', weights, '--out', full, '--dtype', 'bf16'], refused);
  assert.equal(read(full), before);
  // Weights alone are a model too: of days of training.
  rmSync(join(full, 'config.json'));
  await fail(['init', 'nano', '--out', full], { ...refused, words: ['model.safetensors', '--force'] });
  await succeed('convert', weights, '--out', full, '--dtype', 'bf16', '--force');
  assert.not.equal(read(full), before);
  await succeed('init', 'nano', '--out', full, '--seed', '7', '--force');
  assert.equal(read(full), before);
  // A folder without a model is free, whatever else lies in it.
  mkdirSync(at('notes'));
  writeFileSync(at('notes/notes.txt'), 'kept');
  await succeed('convert', weights, '--out', at('notes'), '--dtype', 'bf16');
  assert.is(readFileSync(at('notes/notes.txt'), 'utf8'), 'kept');
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

test('Ctrl-C stops packing, and leaves no cache', async () => {
  const out = at('interrupted');
  let sent = false;
  const ended = await omniId(['convert', weights, '--out', out, '--pack'], {
    // Packing begins when the converted model is there: its config is written last.
    onStart: (child) => {
      const watching = setInterval(() => {
        if (sent || !existsSync(join(out, 'config.json'))) return;
        sent = true;
        child.kill('SIGINT');
      }, 1);
      child.once('exit', () => {
        clearInterval(watching);
      });
    },
  });
  assertEnded(ended, 130);
  assert.is(ended.stderr, 'omni-id: interrupted\n');
  assert.equal(readdirSync(out).sort(), ['config.json', 'model.safetensors']);
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
  // The CPU alone, with the reason why, or CUDA devices besides.
  const { available, unavailable, cuda } = devices();
  assert.equal(facts['devices'], available);
  assert.equal([...available].sort(), ['cpu', ...cuda.map(({ device }) => device)]);
  assert.ok(unavailable.length > 0 || cuda.length > 0);
  const sets = facts['instructionSets'] as string[];
  assert.ok(sets.includes('portable') && sets.includes(String(facts['instructionSet'])));
  assert.ok(Number(facts['threads']) >= 1);
  const text = await succeed('info');
  assert.match(text, `omni-id ${version}`);
  for (const set of sets) assert.match(text, set);
  for (const { device, reason } of unavailable) assert.match(text, `${device} is not available: ${reason}`);
  for (const { device, name } of cuda) assert.match(text, `${device}: ${name}`);
});

test.after(cleanUp);

test.run();
