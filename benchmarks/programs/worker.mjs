// A worker thread of node.mjs: an encoder of its own, which embeds its part whenever it is told.
import { parentPort, workerData } from 'node:worker_threads';
import { load } from './setup.mjs';

const encoder = await load();
await encoder.embed(workerData);
parentPort.on('message', async () => {
  await encoder.embed(workerData);
  parentPort.postMessage('done');
});
parentPort.postMessage('ready');
