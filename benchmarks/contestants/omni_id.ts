import { native } from '../../src/bindings.js';
import { OmniIdEncoder } from '../../src/models/omni_id_encoder.js';
import type { Loaded } from './serve.js';
import { inputsOf } from './serve.js';
import type { Task, Work } from './protocol.js';
import { loadBlock } from './omni_id_block.js';

type PeakTask = Pick<Task, 'device' | 'threads' | 'dtype' | 'peakSeconds'>;

/** The device's peak for a type; a processor without bfloat16 instructions computes in f32. */
export async function measurePeak({ device: name, ...task }: PeakTask): Promise<number> {
  const device = new (native().Device)(name, task.threads);
  const own = await device.measurePeak(task.dtype, task.peakSeconds);
  return own > 0 ? own : device.measurePeak('f32', task.peakSeconds);
}

async function loadEncoder(task: Task): Promise<Loaded> {
  const encoder = await OmniIdEncoder.load(task.folder, {
    dtype: task.dtype,
    device: task.device,
    threads: task.threads,
    // The cache holds the forms that the CPU reads.
    ...(task.device === 'cpu' ? { packedCache: 'write' } : {}),
  });
  const inputs = new Map<string, Float32Array[]>();
  const photosOf = (work: Work): Float32Array[] => {
    const photos = inputs.get(work.name) ?? inputsOf(task, work);
    inputs.set(work.name, photos);
    return photos;
  };
  const compute = async (work: Work): Promise<Float32Array> => {
    const photos = photosOf(work);
    if (task.part === 'features') return (await encoder.embedImages(photos)).data;
    let next = 0;
    const identities = work.identities.map((count) => photos.slice(next, (next += count)));
    return (await encoder.embed(identities)).data;
  };
  return {
    compute,
    flops: async (work) => {
      const { steps } = await encoder.profile(() => compute(work));
      return steps.reduce((sum, { flops }) => sum + flops, 0);
    },
    ...(task.peakSeconds > 0 ? { peak: () => measurePeak(task) } : {}),
  };
}

export function loadOmniId(task: Task): Promise<Loaded> {
  return task.part === 'block' ? loadBlock(task, () => measurePeak(task)) : loadEncoder(task);
}
