// What else a server can do while it embeds: its event loop, libuv's thread pool, and worker threads with encoders of their own.
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { performance } from 'node:perf_hooks';
import { setTimeout } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { load, photos, report, setup } from './setup.mjs';

const encoder = await load();
const batch = Array.from({ length: setup.batches }, () => photos);

/** Seconds that `body` takes. */
async function timed(body) {
  const begin = performance.now();
  await body();
  return (performance.now() - begin) / 1000;
}

/** At most a thousand of them, evenly. */
function thinned(samples) {
  return samples.filter((_, i) => i % Math.ceil(samples.length / 1000) === 0);
}

/** Samples of a 1 ms timer and of small file reads while `body` runs. */
async function watch(body) {
  let done = false;
  const repeat = async (sample, pauseMs) => {
    const samples = [];
    while (!done) {
      samples.push(await timed(sample));
      if (pauseMs > 0) await setTimeout(pauseMs);
    }
    return thinned(samples);
  };
  const ended = body().then(() => (done = true));
  const [ticks, reads] = await Promise.all([
    repeat(() => setTimeout(1), 0),
    repeat(() => readFile(`${setup.folder}/config.json`), 2),
    ended,
  ]);
  return { ticks, reads };
}

async function times(count, body) {
  const samples = [];
  for (let i = 0; i < count; i++) samples.push(await timed(body));
  return samples;
}

await encoder.embed(batch);
const idle = await watch(() => setTimeout(500));
const embedding = await watch(() => times(setup.rounds, () => encoder.embed(batch)));
const main = await times(setup.rounds, () => encoder.embed(batch));

// Two threads with half of the batch each.
const half = batch.slice(0, batch.length / 2);
const workers = [0, 1].map(
  () =>
    new Worker(new URL('./worker.mjs', import.meta.url), { argv: process.argv.slice(2), workerData: half }),
);
await Promise.all(workers.map((worker) => once(worker, 'message')));
const inWorkers = await times(setup.rounds, () =>
  Promise.all(
    workers.map((worker) => {
      worker.postMessage('embed');
      return once(worker, 'message');
    }),
  ),
);
await Promise.all(workers.map((worker) => worker.terminate()));
report({ idle, embedding, main, workers: inWorkers });
