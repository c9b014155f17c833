// The benchmark suite in its quick form: that everything runs and is compared, not how fast it is. Passes with and without peers installed.
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { resultsSchema, type Results } from '../benchmarks/results.js';
import { native } from '../src/bindings.js';
import { devices } from '../src/graph/devices.js';
import { runProgram, type Ended } from './support/process.js';

const folder = mkdtempSync(join(tmpdir(), 'omni-id-bench-test-'));
const main = join(import.meta.dirname, '../benchmarks/main.ts');

function bench(options: readonly string[], env: Record<string, string> = {}): Promise<Ended> {
  return runProgram(process.execPath, ['--import', 'tsx', main, ...options], {
    env: { ...process.env, ...env },
    timeoutMs: 300_000,
  });
}

const jsonPath = join(folder, 'quick.json');
const read = (path: string): Results => resultsSchema.parse(JSON.parse(readFileSync(path, 'utf8')));

test('a quick run of everything is right', async () => {
  const markdown = join(folder, 'quick.md');
  const { code, stdout, stderr } = await bench(['--quick', '--json', jsonPath, '--markdown', markdown]);
  assert.is(code, 0, stderr);
  const results = read(jsonPath);
  assert.ok(results.rows.every(({ status }) => status === 'ok'));
  for (const op of native().operators()) {
    for (const dtype of ['f32', 'bf16']) {
      assert.ok(
        results.rows.some(
          (row) => row.suite === 'kernel' && row.name.startsWith(`${op} `) && row.dtype === dtype,
        ),
        `a row for ${op} in ${dtype}`,
      );
    }
  }
  for (const suite of ['kernel', 'block', 'model', 'encoder', 'lifecycle', 'node', 'scaling', 'training'])
    assert.ok(results.rows.some((row) => row.suite === suite), suite); // prettier-ignore
  const found = (name: string): boolean => results.peers.some((peer) => peer.name === name && peer.found);
  const expected = [
    'encoder.f32.peak', 'encoder.bf16.peak', 'encoder.bf16.batch1.peak', 'ragged.vs_uniform', 'nano.bf16.peak', 'start.seconds', 'memory.bytes',
    'loop.p99_ms', 'jpeg.vs_ideal', 'train.data_wait',
    ...(native().instructionSets().includes('avx2') ? ['avx2.f32.peak'] : []),
    ...(found('onnxruntime-node') ? ['encoder.f32.vs_onnxruntime'] : []),
    ...(found('pytorch')
      ? ['encoder.bf16.vs_pytorch', 'train.nano.f32.vs_pytorch', 'train.nano.bf16.vs_pytorch', 'train.nano.memory_vs_pytorch']
      : []),
  ]; // prettier-ignore
  for (const name of expected) {
    const line = new RegExp(`^ratio ${name.replaceAll('.', '\\.')} (\\S+)$`, 'm').exec(stdout);
    assert.ok(Number(line?.[1]) > 0, `ratio ${name}`);
  }
  assert.match(readFileSync(markdown, 'utf8'), '## encoder');
  // On a GPU where there is one, else the reason why not.
  const { cuda, emulated, unavailable } = devices();
  const onCuda = results.rows.filter(({ contestant }) => contestant.startsWith('omni-id on cuda'));
  assert.is(onCuda.length > 0, cuda.length > 0 && !emulated);
  if (onCuda.length === 0) assert.is(results.cuda, `not measured: ${unavailable[0]?.reason}`);
  assert.match(stdout, `CUDA: ${results.cuda}`);
  // Time that counts was compared before: every row of ours that computes the model says with what.
  for (const row of results.rows.filter(
    ({ suite, contestant, name }) =>
      (suite === 'model' || (suite === 'training' && name.startsWith('step'))) && contestant === 'omni-id',
  ))
    assert.ok(row.error, `${row.name} was compared`);
});

test('unknown names are refused with a list of what there is', async () => {
  for (const [options, known] of [
    [['--suite', 'nothing'], 'kernel, block, model, encoder'],
    [['--peer', 'nothing'], 'onnxruntime-node'],
    [['--suite', 'encoder', '--only', 'nothing'], 'ragged.vs_uniform'],
    [['--preset', 'nothing'], 'nano'],
    [['--threads', 'many'], 'whole number'],
    [['--json', '/nowhere/at/all.json'], '/nowhere/at/all.json'],
    [['--device', 'cpu'], 'expected cuda'],
    [['--device', 'none', '--device', 'cuda'], 'no other --device'],
    [['--device', 'cuda:99'], devices().unavailable[0]?.reason ?? 'no such device'],
  ] as const) {
    const { code, stderr } = await bench(options);
    assert.is(code, 2, stderr);
    assert.match(stderr, known);
  }
});

/** The addon whose CUDA device is the emulation (npm run build:native). */
const emulatedAddon = join(import.meta.dirname, '../build/native/Release/omni_id_emulated.node');
function underEmulation(name: string, body: () => Promise<void>): void {
  if (existsSync(emulatedAddon)) test(name, body);
  else test.skip(name, body);
}

underEmulation('a CUDA device is measured beside the CPU, from the same weights and inputs', async () => {
  const path = join(folder, 'cuda.json');
  const env = { OMNI_ID_ADDON: emulatedAddon };
  const options = ['--quick', '--suite', 'block', '--peer', 'none', '--json', path];
  const { code, stderr } = await bench([...options, '--device', 'cuda'], env);
  assert.is(code, 0, stderr);
  const { rows, cuda } = read(path);
  assert.match(cuda ?? '', 'cuda is an emulation');
  for (const who of ['omni-id', 'omni-id on cuda, emulated']) {
    for (const type of ['f32', 'bf16']) {
      const mine = rows.filter(({ contestant, dtype }) => contestant === who && dtype === type);
      assert.is(mine.length, 2, `${who} ${type}`);
      for (const { error, warm, peaks } of mine) {
        assert.ok(error && !error.against.includes('cuda'), 'compared with others than CUDA');
        assert.ok(warm.length > 0);
        // An emulation has no peak to be measured against.
        assert.is(peaks === undefined, who !== 'omni-id');
      }
    }
  }
  // It never measures an emulation that nobody asked for.
  assert.is((await bench(options, env)).code, 0);
  assert.is(read(path).cuda, 'not measured: an emulation only');
  assert.ok(read(path).rows.every(({ contestant }) => !contestant.includes('cuda')));
});

test('a profile names operators and shares', async () => {
  const { code, stdout, stderr } = await bench([
    '--profile',
    '--preset',
    'tiny',
    '--batch',
    '2',
    '--rounds',
    '2',
  ]);
  assert.is(code, 0, stderr);
  for (const word of ['attention', 'patch_embedding', 'GFLOP/s', 'of peak']) assert.match(stdout, word);
});

test('a profile of a training step names its operators', async () => {
  const options = ['--profile', '--suite', 'training', '--preset', 'tiny', '--rounds', '2'];
  const { code, stdout, stderr } = await bench(options);
  assert.is(code, 0, stderr);
  for (const word of ['linear_weight_gradient', 'adamw', 'GFLOP/s', 'identities/s'])
    assert.match(stdout, word);
});

/** An executable that passes for a Python with everything, and as a contestant does what `serve` says. */
function fakePython(serve: string): string {
  const path = join(folder, `python-${serve.length}`);
  const script = `#!${process.execPath}
    if (process.argv[2] === '-c') { console.log('9.9 transformers 9.9'); process.exit(0); }
    const say = (message) => console.log(JSON.stringify(message));
    const task = JSON.parse(process.argv[3]);
    ${serve}`;
  writeFileSync(path, script);
  chmodSync(path, 0o755);
  return path;
}

test('a peer that fails has a row that says so, and the run goes on', async () => {
  const path = join(folder, 'failing.json');
  const python = fakePython(`say({ type: 'error', message: 'no luck today' });`);
  const { code } = await bench(['--quick', '--suite', 'block', '--peer', 'pytorch', '--json', path], {
    OMNI_ID_PYTHON: python,
  });
  assert.is(code, 1);
  const { rows } = read(path);
  assert.ok(rows.some(({ contestant, status, note }) => contestant === 'pytorch' && status === 'failed' && note === 'no luck today')); // prettier-ignore
  assert.ok(rows.some(({ contestant, status, warm }) => contestant === 'omni-id' && status === 'ok' && warm.length > 0)); // prettier-ignore
});

test('a peer that gives other numbers is found out', async () => {
  const path = join(folder, 'wrong.json');
  const python = fakePython(`
    const works = {};
    for (const { name, identities } of task.works) {
      const elements = identities[0] * task.inputShape.reduce((a, b) => a * b, 1);
      require('node:fs').writeFileSync(task.outputs + '/' + name + '.f32', new Uint8Array(new Float32Array(elements).fill(1).buffer));
      works[name] = { firstSeconds: 1 };
    }
    say({ type: 'ready', loadSeconds: 1, works });
    require('node:readline').createInterface({ input: process.stdin }).on('line', (line) => {
      if (line !== 'end') return say({ type: 'sample', seconds: 1 });
      say({ type: 'end', peakBytes: 1 });
      process.exit(0);
    });`);
  const { code } = await bench(['--quick', '--suite', 'block', '--peer', 'pytorch', '--json', path], {
    OMNI_ID_PYTHON: python,
  });
  assert.is(code, 1);
  const { rows } = read(path);
  const theirs = rows.filter(({ contestant }) => contestant === 'pytorch');
  assert.ok(theirs.length > 0);
  for (const { status, note } of theirs) {
    assert.is(status, 'wrong');
    assert.match(note ?? '', 'other numbers');
  }
  assert.ok(rows.some(({ contestant, dtype, status }) => contestant === 'omni-id' && dtype === 'bf16' && status === 'ok')); // prettier-ignore
});

test('a trainer with other losses is found out, and has no ratio', async () => {
  const path = join(folder, 'losses.json');
  const python = fakePython(`
    const works = {};
    for (const { name } of task.works) {
      require('node:fs').writeFileSync(task.outputs + '/' + name + '.f32', new Uint8Array(new Float32Array([1, 0.5, 0.25]).buffer));
      works[name] = { firstSeconds: 1 };
    }
    say({ type: 'ready', loadSeconds: 1, works });
    require('node:readline').createInterface({ input: process.stdin }).on('line', (line) => {
      if (line !== 'end') return say({ type: 'sample', seconds: 1 });
      say({ type: 'end', peakBytes: 1 });
      process.exit(0);
    });`);
  const { code, stdout } = await bench(
    [
      '--quick',
      '--suite',
      'training',
      '--peer',
      'pytorch',
      '--only',
      'train.nano.f32.vs_pytorch',
      '--json',
      path,
    ],
    { OMNI_ID_PYTHON: python },
  );
  assert.is(code, 1);
  assert.not.match(stdout, /^ratio train/m);
  const { rows } = read(path);
  assert.ok(
    rows.some(({ contestant, note }) => contestant === 'omni-id' && (note ?? '').includes('other losses')),
  );
});

/** The quick run with every time of ours changed. */
function changed(name: string, change: (results: Results) => unknown): string {
  const path = join(folder, name);
  writeFileSync(path, JSON.stringify(change(structuredClone(read(jsonPath)))));
  return path;
}

test('compare finds what became slower, and nothing else', async () => {
  const same = await bench(['compare', jsonPath, jsonPath]);
  assert.is(same.code, 0, same.stderr);
  assert.match(same.stdout, '0 slower');
  const twice = (results: Results): Results => {
    for (const row of results.rows) row.warm = row.warm.map((seconds) => 2 * seconds);
    return results;
  };
  const slower = changed('slower.json', twice);
  const worse = await bench(['compare', jsonPath, slower]);
  assert.is(worse.code, 1, worse.stdout);
  assert.match(worse.stdout, 'SLOWER');
  const better = await bench(['compare', slower, jsonPath]);
  assert.is(better.code, 0, better.stdout);
  assert.match(better.stdout, 'FASTER');
});

test('charts are drawn of every suite that has some, where the library is installed', async () => {
  const out = join(folder, 'figures');
  const { code, stdout, stderr } = await bench(['chart', jsonPath, '--out', out]);
  if (stderr.includes('drawing needs vega')) {
    assert.is(code, 2);
    return;
  }
  assert.is(code, 0, stderr);
  for (const name of ['model', 'block', 'roofline', 'scaling-batch', 'scaling-threads']) {
    assert.match(stdout, `${name}.svg`);
    assert.match(readFileSync(join(out, `${name}.svg`), 'utf8'), '<svg');
  }
});

test('compare refuses what it cannot read', async () => {
  const notJson = join(folder, 'not.json');
  writeFileSync(notJson, 'not JSON');
  for (const [path, words] of [
    [changed('version.json', (results) => ({ ...results, version: 99 })), 'version 99'],
    [changed('other.json', () => ({ some: 'thing' })), 'not results'],
    [changed('torn.json', (results) => ({ ...results, rows: [{ suite: 1 }] })), 'rows.0'],
    [notJson, 'JSON'],
    [join(folder, 'absent.json'), 'ENOENT'],
  ] as const) {
    const { code, stderr } = await bench(['compare', jsonPath, path]);
    assert.is(code, 2, stderr);
    assert.match(stderr, words);
  }
});

test.after(() => {
  rmSync(folder, { recursive: true, force: true });
});

test.run();
