// What the trainer makes of bad input: a typed error before any training starts, or what can be done without what is bad.
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { openDataset } from '../src/data/open_dataset.js';
import { rendererVersion, renderFace } from '../src/data/rendered.js';
import { Checkpoints, latestCheckpoint } from '../src/train/checkpoints.js';
import { readTrainingConfig } from '../src/train/config.js';
import { renderedShards } from '../src/train/rendered_shards.js';
import { train } from '../src/train/trainer.js';
import { assertRejects, errorOf } from './support/errors.js';
import { write, writePeople } from './support/people.js';
import {
  assertSameRun,
  at,
  checkpointPath,
  cleanUp,
  hashes,
  logOf,
  newRun,
  run,
  runUntil,
  tinyConfig,
  tinyJson,
} from './support/tiny_run.js';

test.after(cleanUp);

/** Settings of a run on a folder of photos. */
const onFolder = (path: string, heldOut = 0): string[] => [
  `data=${JSON.stringify({ kind: 'folder', path, heldOut: { identities: heldOut } })}`,
  ...(heldOut === 0 ? ['log.evaluateEvery=null', 'log.imagesEvery=null'] : []),
];

/** A folder of identities with so many photos each. */
async function people(photosOf: Readonly<Record<string, number>>): Promise<string> {
  const folder = newRun();
  await writePeople(folder, photosOf);
  return folder;
}

const settings: [setting: string, ...words: string[]][] = [
  ['sampling.inputs=0', 'sampling.inputs.0 is 0, expected a whole number from 1 to 4096'],
  ['sampling.inputs=[0,3]', 'sampling.inputs.0', 'is 0, expected'],
  ['sampling.inputs=[3,2]', 'sampling.inputs is [3, 2], expected the smaller number first'],
  ['sampling.targets=0', 'sampling.targets', 'is 0, expected'],
  ['sampling.targets=1.5', 'sampling.targets', 'is 1.5, expected'],
  ['decoders.0.maskRatio=0', 'decoders.0.maskRatio', 'is 0, expected'],
  ['decoders.0.maskRatio=1', 'decoders.0.maskRatio', 'is 1, expected'],
  ['decoders.0.maskRatio=-0.5', 'decoders.0.maskRatio', 'is -0.5, expected'],
  ['decoders.0.maskRatio=0.999', 'leaves 0 of 16 patches visible'],
  ['decoders.0.patchSize=5', 'decoders.0.imageSize is 28', 'a multiple of its patchSize, which is 5'],
  ['decoders.0.imageSize=30', 'decoders.0.imageSize is 30', 'which is 7'],
  ['encoder.vision.patchSize=9', 'encoder.vision.imageSize is 28', 'which is 9'],
  ['encoder.heads=3', 'encoder.width is 32', 'its heads, which is 3'],
  ['accumulation=3', 'sampling.identities is 2', 'accumulation, which is 3'],
  ['optimizer.learningrate=1', 'unknown field "learningrate"', 'learningRate'],
  ['data.firstSeed=899999', 'people 899999 to 900004 would be trained on', '900000 on are held out'],
];

for (const [setting, ...words] of settings) {
  test(`${setting} is refused`, async () => {
    await assertRejects(() => tinyConfig([setting]), 'ERR_CONFIG', ...words);
  });
}

test('a configuration that is no JSON, or not there', async () => {
  const path = at('cut.json');
  write(path, '{ "steps": 3,');
  await assertRejects(() => readTrainingConfig(path), 'ERR_CONFIG', 'cut.json is not JSON');
  await assertRejects(() => readTrainingConfig(at('none.json')), 'ERR_FILE', 'none.json', 'ENOENT');
});

test('patterns that freeze nothing: told before data and weights are made', async () => {
  const folder = newRun();
  const settings = ['optimizer.frozen=["encoder.*","vision_model.*"]', `data.cache=${join(folder, 'never')}`];
  await assertRejects(() => run(settings, { folder }), 'ERR_CONFIG', 'no parameter matches "vision_model.*"', 'names are like '); // prettier-ignore
  await assertRejects(() => run(['optimizer.frozen=["*"]'], { folder }), 'ERR_CONFIG', 'something to train');
  assert.not(existsSync(folder));
});

test('what programs without types may pass', async () => {
  const runFolder = newRun();
  const config = tinyConfig();
  const call = (...given: unknown[]): Promise<unknown> => (train as (...given: unknown[]) => Promise<unknown>)(...given); // prettier-ignore
  const refused = (given: unknown[], code: string, ...words: string[]) => assertRejects(() => call(...given), code, ...words); // prettier-ignore
  for (const [none, words] of [[null, 'is null'], [undefined, 'is undefined'], [5, 'is 5'], [[], 'is []']] as const) // prettier-ignore
    await refused([none, { runFolder }], 'ERR_INVALID_ARGUMENT', `the configuration ${words}`, 'readTrainingConfig'); // prettier-ignore
  // Nobody wants to train the defaults because a configuration was lost on the way.
  await refused([{}, { runFolder }], 'ERR_CONFIG', 'not whole', 'encoder', 'readTrainingConfig');
  await refused([tinyJson, { runFolder }], 'ERR_CONFIG', 'not whole');
  await refused([{ ...config, steps: '7' }, { runFolder }], 'ERR_CONFIG', 'steps', 'steps is "7"');
  await refused([{ ...config, extra: 7 }, { runFolder }], 'ERR_CONFIG', 'unknown field "extra"');
  await refused([config], 'ERR_INVALID_ARGUMENT', 'the options of train are undefined');
  await refused([config, {}], 'ERR_INVALID_ARGUMENT', 'runFolder is undefined');
  await refused([config, { runFolder: '' }], 'ERR_INVALID_ARGUMENT', 'runFolder is ""');
  await refused([config, { runFolder, resume: 1 }], 'ERR_INVALID_ARGUMENT', 'resume is 1');
  await refused([config, { runFolder, signals: 1 }], 'ERR_INVALID_ARGUMENT', 'unknown option "signals"');
  assert.not.ok(existsSync(runFolder));
  const read = readTrainingConfig as (...given: unknown[]) => Promise<unknown>;
  for (const source of [5, null, undefined, '', {}, { name: 'x' }, { json: {}, name: 5 }])
    await assertRejects(() => read(source), 'ERR_INVALID_ARGUMENT', 'the path of a file, or { json, name }');
  await assertRejects(() => read({ json: 5, name: 'five' }), 'ERR_CONFIG', 'five');
  for (const settings of ['steps=3', [3], 5, null])
    await assertRejects(
      () => read({ json: {}, name: 'x' }, settings),
      'ERR_INVALID_ARGUMENT',
      'list of texts',
    );
});

test('data that cannot be trained on', async () => {
  const empty = newRun();
  mkdirSync(empty);
  const folder = newRun();
  const refused = async (dataset: string, heldOut: number, ...words: string[]): Promise<void> => {
    await assertRejects(() => run(onFolder(dataset, heldOut), { folder }), 'ERR_DATASET', ...words);
    const left = readdirSync(folder);
    for (const name of ['log.jsonl', 'config.json']) assert.not.ok(left.includes(name), `${name} of no run`);
  };
  await refused(empty, 0, `${empty}: no identities`);
  const some = await people({ ann: 3, ben: 3, cid: 3 });
  mkdirSync(join(some, 'dan'));
  await refused(some, 0, 'no photos in dan');
  write(join(some, 'dan/0.jpg'), 'not a photo');
  write(join(some, 'dan/1.png'), '');
  await refused(some, 0, 'nothing can be read of dan');
  // The same among those that are held out: the last one is.
  await refused(some, 1, 'nothing can be read of dan');
  await refused(some, 4, 'has 4 identities, of which data.heldOut.identities takes 4: none');
  await refused(some, 64, 'of which data.heldOut.identities takes 64');
  await assertRejects(() => run(onFolder(at('nowhere')), { folder }), 'ERR_FILE', 'nowhere is not there');
  const other = JSON.stringify({ kind: 'folder', path: some, heldOut: { path: at('nowhere') } });
  await assertRejects(() => run([`data=${other}`], { folder }), 'ERR_FILE', 'nowhere is not there');
  const shards = JSON.stringify({ kind: 'shards', path: some });
  await assertRejects(() => run([`data=${shards}`], { folder }), 'ERR_DATASET', 'no .tar shards', 'the kind is "folder"'); // prettier-ignore
  const packed = newRun();
  write(join(packed, 'train-000000.tar'), 'shard');
  await refused(packed, 0, 'holds .tar shards', 'expected the kind "shards"');
  // All that is left behind is a run that has not begun.
  rmSync(join(some, 'dan'), { recursive: true });
  assert.ok((await run(['steps=2', ...onFolder(some)], { folder })).result.finished);
});

test('photos that cannot be read are left out, counted and named; identities with too few are said', async () => {
  const folder = await people({ ann: 5, ben: 5, cid: 2, dora: 1 });
  write(join(folder, 'ann/1.png'), 'not a photo');
  truncate(join(folder, 'ben/2.png'));
  write(join(folder, 'dora/9.jpg'), '');
  const { folder: made, result, printed } = await run(['log.every=3', 'dtype=bf16', ...onFolder(folder)]);
  assert.ok(result.finished);
  assert.is(result.unreadablePhotos, 3);
  const named = logOf(made, 'unreadable').map(({ identity, photo, set }) => [set, identity, photo]);
  assert.equal(named.sort(), [['training', 'ann', 1], ['training', 'ben', 2], ['training', 'dora', 1]]); // prettier-ignore
  for (const words of [
    `a training photo is left out: photo 1 of identity 0 (${join(folder, 'ann/1.png')})`,
    `a training photo is left out: photo 2 of identity 1 (${join(folder, 'ben/2.png')})`,
    '3 photos could not be read and were left out (log.jsonl names them)',
    'identities with fewer photos than the 3 of a step: 2 of 4, some of their photos come several times in it: cid, dora',
  ])
    assert.ok(printed.includes(words), `"${words}" is not in ${printed}`);
  const [short] = logOf(made, 'short_of_photos');
  assert.equal(short?.['identities'], ['cid', 'dora']);
  // Which photos replace them is drawn by the step, and so the same whenever a run is interrupted.
  const interrupted = newRun();
  const again = ['log.every=1', 'dtype=bf16', ...onFolder(folder)];
  await runUntil(5, again, { folder: interrupted });
  await run(again, { folder: interrupted, resume: true });
  assertSameRun(interrupted, made, 12);
});

function truncate(path: string): void {
  truncateSync(path, 60);
}

test('a run among its photos is refused', async () => {
  const folder = await people({ ann: 3, ben: 3 });
  await assertRejects(() => run(onFolder(folder), { folder: join(folder, 'run') }), 'ERR_INVALID_ARGUMENT', 'lies in that of its data'); // prettier-ignore
  assert.equal(readdirSync(folder), ['ann', 'ben']);
});

test('a run does not go on with another data set', async () => {
  const folder = await people({ ann: 3, ben: 3, cid: 3 });
  const settings = onFolder(folder);
  const { folder: stopped } = await runUntil(3, settings);
  cpSync(join(folder, 'ann/0.png'), join(folder, 'ann/9.png'));
  await assertRejects(() => run(settings, { folder: stopped, resume: true }), 'ERR_DATASET', '3 identities with 9 photos', '3 identities with 10 photos'); // prettier-ignore
  rmSync(join(folder, 'ann/9.png'));
  renameSync(join(folder, 'ann'), join(folder, 'bob'));
  await assertRejects(() => run(settings, { folder: stopped, resume: true }), 'ERR_DATASET', 'by other names'); // prettier-ignore
  renameSync(join(folder, 'bob'), join(folder, 'ann'));
  assert.ok((await run(settings, { folder: stopped, resume: true })).result.finished);
});

test('a promise that onProgress returns is waited for, and ends the run when it is rejected', async () => {
  const late = async (): Promise<void> => {
    await setTimeout(1);
    throw new RangeError('enough');
  };
  const failure = await errorOf(() => run([], { onProgress: late }));
  assert.instance(failure, RangeError);
});

test('held-out photos that cannot be read are named too, once', async () => {
  const folder = await people({ ann: 5, ben: 5, cid: 5 });
  write(join(folder, 'cid/3.png'), 'not a photo');
  const { folder: made, result } = await run(['log.evaluateEvery=1', 'steps=4', 'sampling.targets=5', ...onFolder(folder, 1)]); // prettier-ignore
  assert.is(result.unreadablePhotos, 1);
  assert.equal(logOf(made, 'unreadable').map(({ set, identity, photo }) => [set, identity, photo]), [['held-out', 'cid', 3]]); // prettier-ignore
});

test('more identities in a step than there are: some come several times, and it is said', async () => {
  const { result, printed, folder } = await run(['sampling.identities=8', 'steps=2']);
  assert.ok(result.finished);
  assert.match(printed, 'a step has 8 identities, the data set 6: some come several times in a step');
  assert.is(logOf(folder, 'short_of_identities').length, 1);
});

test('run folders: one that is a file, one with a run, and --resume without one', async () => {
  const file = newRun();
  write(file, 'text');
  await assertRejects(() => run([], { folder: file }), 'ERR_FILE', file);
  await assertRejects(() => run([], { folder: join(file, 'run') }), 'ERR_FILE', 'ENOTDIR');
  await assertRejects(() => run([], { folder: file, resume: true }), 'ERR_FILE', `${file} holds no run`);
  const none = newRun();
  await assertRejects(() => run([], { folder: none, resume: true }), 'ERR_FILE', `${none} is not there`);
  assert.not.ok(readdirSync(at()).includes(none.slice(at().length + 1)), 'a folder was made');
  // It is not a run when it holds other things.
  mkdirSync(none);
  await assertRejects(() => run([], { folder: none, resume: true }), 'ERR_FILE', `${none} holds no run`);

  // Nor is one with other things taken for a new run: a model's config.json would be lost.
  for (const names of [['photo.jpg'], ['config.json', 'model.safetensors']]) {
    const foreign = newRun();
    for (const name of names) write(join(foreign, name), '{"hidden_size": 3}');
    await assertRejects(() => run([], { folder: foreign }), 'ERR_FILE', `${foreign} holds ${names.join(', ')} and no run`); // prettier-ignore
    await assertRejects(
      () => run([], { folder: foreign, resume: true }),
      'ERR_FILE',
      `${foreign} holds no run`,
    );
    assert.equal(readdirSync(foreign), names);
  }
  const hidden = newRun();
  write(join(hidden, '.gitkeep'), '');
  assert.ok((await run(['steps=1'], { folder: hidden })).result.finished);
  // Node's recursive mkdir never comes back from there.
  if (process.platform === 'linux')
    await assertRejects(() => run([], { folder: '/proc/omni-id/run' }), 'ERR_FILE', 'cannot make /proc/omni-id/run'); // prettier-ignore

  const { folder } = await run(['steps=3']);
  const before = hashes(folder);
  await assertRejects(() => run(['steps=3'], { folder }), 'ERR_FILE', 'holds a run that is at step 3', '--resume'); // prettier-ignore
  assert.equal(hashes(folder), before);
});

test('another configuration: every field that differs is named', async () => {
  const { folder } = await run(['steps=3']);
  const before = hashes(folder);
  const changed = ['optimizer.learningRate=0.5', 'encoder.tokens=8', 'seed=3', 'data.views=4', 'steps=20'];
  const error = await assertRejects(
    () => run(changed, { folder, resume: true }),
    'ERR_CONFIG',
    'step-00000003 is of another configuration',
    'optimizer.learningRate was 0.001 and is now 0.5',
    'encoder.tokens was 4 and is now 8',
    'seed was 0 and is now 3',
    'data.views was 5 and is now 4',
  );
  assert.not.match(error.message, 'steps was');
  // Fewer steps than there are already.
  await assertRejects(() => run(['steps=2'], { folder, resume: true }), 'ERR_CONFIG', 'steps is 2', 'is at step 3'); // prettier-ignore
  assert.equal(hashes(folder), before);

  // Before the first checkpoint too.
  const begun = newRun();
  write(join(begun, 'config.json'), JSON.stringify(tinyConfig()));
  await assertRejects(() => run(['seed=3'], { folder: begun, resume: true }), 'ERR_CONFIG', 'config.json is of another configuration', 'seed was 0 and is now 3'); // prettier-ignore
  write(join(begun, 'config.json'), '{"sampling":');
  await assertRejects(() => run([], { folder: begun, resume: true }), 'ERR_CONFIG', 'is not JSON');
});

test('a damaged checkpoint: the one before it is used, and it is said', async () => {
  const whole = await run();
  const folder = newRun();
  await runUntil(7, [], { folder });
  truncateSync(join(checkpointPath(folder, 7), 'values.safetensors'), 1000);
  const { printed } = await run([], { folder, resume: true });
  assert.match(printed, 'step-00000007 is damaged, the one before it is used');
  assert.match(printed, 'resumed at step 6');
  assertSameRun(folder, whole.folder, 12);
  const [damaged] = logOf(folder, 'damaged');
  assert.match(String(damaged?.['folder']), /step-00000007$/);
  assert.match(String(damaged?.['reason']), 'values.safetensors has 1000 bytes');

  for (const name of readdirSync(join(folder, 'checkpoints')))
    rmSync(join(folder, 'checkpoints', name, 'average.safetensors'));
  await assertRejects(
    () => run([], { folder, resume: true }),
    'ERR_FORMAT',
    'none of the checkpoints',
    folder,
  );
});

test('a run that has not saved yet begins again', async () => {
  const folder = newRun();
  mkdirSync(folder);
  write(join(folder, 'config.json'), JSON.stringify(tinyConfig(['steps=4'])));
  const { printed, result } = await run(['steps=3'], { folder, resume: true });
  assert.match(printed, `${folder} has no checkpoint yet: beginning at step 0`);
  assertSameRun(folder, (await run(['steps=3'])).folder, 3);
  assert.ok(result.finished);
});

test('what a process that was killed while it wrote has left behind is removed', async () => {
  const { folder } = await runUntil(7);
  const before = readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort();
  for (const path of [
    '.held_out.json',
    '.config.json',
    'images/.step-00000006.png',
    'model/.model.safetensors',
    'model/mtd/.config.json',
  ])
    write(join(folder, `${path}.123.0123456789ab.tmp`), 'half');
  write(join(folder, '.mine.tmp'), 'stays');
  await run(['steps=7'], { folder, resume: true });
  assert.equal(
    readdirSync(folder, { recursive: true, encoding: 'utf8' })
      .sort()
      .filter((name) => !before.includes(name)),
    ['.mine.tmp', 'images/step-00000007.png'],
  );
});

test('two runs in one folder', async () => {
  const { folder } = await run(['steps=3']);
  const held = await Checkpoints.open(folder, { keepLast: 3, best: true });
  await assertRejects(
    () => run([], { folder, resume: true }),
    'ERR_FILE',
    `process ${process.pid} trains in`,
  );
  await held.close();
  assert.ok((await run([], { folder, resume: true })).result.finished);
});

test('a disk that becomes full: the last checkpoint survives, and the run goes on from it', async () => {
  const whole = await run();
  const probe = await open(at('probe'), 'w');
  const prototype = Object.getPrototypeOf(probe) as Record<'write' | 'writeFile', (...given: unknown[]) => unknown>; // prettier-ignore
  await probe.close();
  const original = { write: prototype.write, writeFile: prototype.writeFile };
  const folder = newRun();
  let full = false;
  for (const name of ['write', 'writeFile'] as const) {
    prototype[name] = function (this: FileHandle, ...given: unknown[]) {
      if (!full) return original[name].apply(this, given);
      return Promise.reject(Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', syscall: 'write' })); // prettier-ignore
    };
  }
  try {
    await assertRejects(
      () => run([], { folder, onProgress: ({ step }) => (full ||= step === 8) }),
      'ERR_FILE',
      'ENOSPC',
      'no checkpoint of step 9',
      'the run is still saved at step 6',
    );
  } finally {
    Object.assign(prototype, original);
  }
  assert.equal(readdirSync(join(folder, 'checkpoints')).sort(), ['step-00000003', 'step-00000006']);
  assert.is((await latestCheckpoint(folder))?.step, 6);
  assert.not.ok(readdirSync(folder).includes('train.lock'));
  const { printed } = await run([], { folder, resume: true });
  assert.match(printed, 'resumed at step 6');
  assertSameRun(folder, whole.folder, 12);
});

/** Lets every so many reads of open files fail as a bad disk does, while `body` runs. */
async function withBadDisk<T>(isBad: (read: number) => boolean, body: () => Promise<T>): Promise<T> {
  const probe = await open(at('probe'), 'w');
  const prototype = Object.getPrototypeOf(probe) as Record<'read', (...given: unknown[]) => unknown>;
  await probe.close();
  const original = prototype.read;
  let reads = 0;
  prototype.read = function (this: FileHandle, ...given: unknown[]) {
    if (!isBad(reads++)) return original.apply(this, given);
    return Promise.reject(Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO', syscall: 'read' }));
  };
  try {
    return await body();
  } finally {
    prototype.read = original;
  }
}

test('a disk that stutters changes nothing; one that stays bad ends the run, and no photo is left out for it', async () => {
  const whole = await run();
  const stuttering = await withBadDisk((read) => read % 5 === 0, () => run()); // prettier-ignore
  assert.is(stuttering.result.unreadablePhotos, 0);
  assertSameRun(stuttering.folder, whole.folder, 12);
  const folder = newRun();
  await assertRejects(() => withBadDisk((read) => read > 60, () => run([], { folder })), 'ERR_FILE', 'cannot read', '.tar:', '4 times', 'EIO'); // prettier-ignore
  assert.equal(logOf(folder, 'unreadable'), []);
  await run([], { folder, resume: true });
  assertSameRun(folder, whole.folder, 12);
});

test('rendering that is interrupted leaves nothing that is taken for a data set', async () => {
  const parent = newRun();
  const six = { identities: 6, views: 5, firstSeed: 0, size: 28 };
  const six28 = `v${rendererVersion}-0-6x5-28px`;
  const controller = new AbortController();
  const reason = new Error('enough');
  const onRender = (done: number): void => {
    if (done === 7) controller.abort(reason);
  };
  const error = await errorOf(() => renderedShards(parent, six, { signal: controller.signal, onRender }));
  assert.is(error, reason);
  assert.equal(readdirSync(parent), []);
  // What killed processes leave is removed; what those of other machines or living ones are making is not.
  const gone = 2 ** 22 + 1;
  for (const name of [
    `${hostname()}-${gone}-aa`,
    `${hostname()}-${process.ppid}-aa`,
    `elsewhere-${gone}-aa`,
  ]) {
    mkdirSync(join(parent, `.rendering-${name}`));
    writeFileSync(join(parent, `.rendering-${name}`, 'train-000000.tar'), 'half');
  }
  // Two at once: one is put in place, both have the same.
  const [one, two] = await Promise.all([renderedShards(parent, six), renderedShards(parent, six)]);
  assert.equal(readdirSync(parent).sort(), [`.rendering-elsewhere-${gone}-aa`, `.rendering-${hostname()}-${process.ppid}-aa`, six28].sort()); // prettier-ignore
  for (const dataset of [one, two]) {
    assert.equal([dataset.identities, dataset.photos(5)], [6, 5]);
    await dataset.read(5, 4, 28);
    await dataset.close();
  }
  await (await openDataset(join(parent, six28))).close();
  // Other views of the same people are another data set.
  const frontal = await renderedShards(parent, { ...six, view: { poseSpread: 0, jitter: false } });
  const { pixels } = await renderFace({ identity: 5, view: 4, size: 28, poseSpread: 0, jitter: false });
  assert.equal(Array.from((await frontal.read(5, 4, 28)).pixels), Array.from(pixels));
  await frontal.close();
  assert.ok(readdirSync(parent).includes(`${six28}-jitter-false-poseSpread-0`));
  // Choosing what is so anyway is no choice: nothing is rendered again.
  const same = { crop: 1, poseSpread: 1, expression: 'random', jitter: true, glasses: undefined } as const;
  await (await renderedShards(parent, { ...six, view: same }, { onRender: () => { assert.unreachable(); } })).close(); // prettier-ignore
});

test.run();
