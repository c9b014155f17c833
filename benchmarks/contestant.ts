/**
 * One contestant in a process of its own: loads a model, warms up, then computes when told to, and reports times, peak memory and
 * event-loop delay. Talks JSON lines: `{ run: true }` in, a sample out; so that the suite can take turns between contestants and a slow spell
 * of the machine meets all of them.
 */
import { writeFileSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { createInterface } from 'node:readline';
import { procedural } from '../test/support/procedural.js';

export interface Setup {
  readonly peer: 'omni-id' | 'onnxruntime-node';
  readonly dtype: 'f32' | 'bf16';
  readonly folder: string;
  readonly imageSize: number;
  readonly images: number;
  readonly threads: number;
  /** Where the first outputs go, as raw f32, for comparison. */
  readonly outputs: string;
}

export interface Sample {
  readonly seconds: number;
  readonly loopDelayP99Ms: number;
}

const setup = JSON.parse(process.argv[2] ?? '{}') as Setup;
const size = 3 * setup.imageSize ** 2;
const photos = Array.from({ length: setup.images }, (_, i) => procedural(`photo ${i}`, size, 0, 1.7));

async function omniId(): Promise<() => Promise<Float32Array>> {
  const { ClipVisionEncoder } = await import('../src/index.js');
  const model = await ClipVisionEncoder.load(setup.folder, { dtype: setup.dtype, threads: setup.threads });
  return async () => (await model.embedImages(photos)).data;
}

async function onnxruntime(): Promise<() => Promise<Float32Array>> {
  const { InferenceSession, Tensor } = await import('onnxruntime-node');
  const session = await InferenceSession.create(`${setup.folder}/model.onnx`, {
    intraOpNumThreads: setup.threads,
    graphOptimizationLevel: 'all',
  });
  const pixels = new Float32Array(size * setup.images);
  for (const [i, photo] of photos.entries()) pixels.set(photo, i * size);
  const input = new Tensor('float32', pixels, [setup.images, 3, setup.imageSize, setup.imageSize]);
  return async () => {
    const { features } = await session.run({ pixels: input });
    if (!features) throw new Error('the model gave no features');
    return features.data;
  };
}

const started = performance.now();
const compute = await (setup.peer === 'omni-id' ? omniId() : onnxruntime());
const loadSeconds = (performance.now() - started) / 1000;
const first = await compute();
writeFileSync(setup.outputs, new Uint8Array(first.buffer, first.byteOffset, first.byteLength));
const send = (message: object): void => void process.stdout.write(`${JSON.stringify(message)}\n`);
send({ ready: true, loadSeconds });

for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'end') break;
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  // The histogram counts from its second tick on.
  await new Promise((resolve) => setTimeout(resolve, 20));
  delay.reset();
  const begin = performance.now();
  await compute();
  const seconds = (performance.now() - begin) / 1000;
  await new Promise((resolve) => setTimeout(resolve, 5));
  delay.disable();
  send({ seconds, loopDelayP99Ms: delay.percentile(99) / 1e6 });
}
send({ peakBytes: process.resourceUsage().maxRSS * 1024 });
process.exit(0);
