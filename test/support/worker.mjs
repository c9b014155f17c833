// A worker thread that embeds with the built package: as often as it is told, or until it is terminated.
import { parentPort, workerData } from 'node:worker_threads';
import { OmniIdEncoder } from '../../dist/index.js';

const { folder, photo, rounds } = workerData;
const encoder = await OmniIdEncoder.load(folder, { dtype: 'f32' });
parentPort.postMessage('ready');
for (let round = 0; round < rounds; round++) {
  const { data } = await encoder.embed(Array.from({ length: 20 }, () => [photo, photo]));
  parentPort.postMessage(data.slice(0, data.length / 20));
}
