import { onnxNames } from '../onnx/export.js';
import { importFrom, type OnnxruntimeNode } from '../peers/modules.js';
import type { Task, Work } from './protocol.js';
import { inputsOf, type Loaded } from './serve.js';

/** Photos one after another in one array. */
export function joined(photos: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(photos.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const photo of photos) {
    all.set(photo, at);
    at += photo.length;
  }
  return all;
}

/** onnxruntime-node with the models that `exportOnnx` made: one for each number of photos. */
export async function loadOnnxruntime(task: Task): Promise<Loaded> {
  const ort = (await importFrom(task.moduleFolder ?? '', 'onnxruntime-node')) as unknown as OnnxruntimeNode;
  const computes = new Map<string, () => Promise<Float32Array>>();
  const load = async (work: Work): Promise<() => Promise<Float32Array>> => {
    const photos = inputsOf(task, work);
    const session = await ort.InferenceSession.create(
      `${task.modelFolder}/${task.part}-${photos.length}.onnx`,
      {
        intraOpNumThreads: task.threads,
        graphOptimizationLevel: 'all',
      },
    );
    const input = new ort.Tensor('float32', joined(photos), [photos.length, ...task.inputShape]);
    return async () => {
      const { [onnxNames.output]: result } = await session.run({ [onnxNames.input]: input });
      if (!result) throw new Error('the model gave no result');
      return result.data;
    };
  };
  for (const work of task.works) computes.set(work.name, await load(work));
  return {
    compute: (work) => computes.get(work.name)?.() ?? Promise.reject(new Error(`no model for ${work.name}`)),
  };
}
