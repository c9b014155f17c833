import { onnxNames } from '../onnx/export.js';
import { importFrom, type TransformersJs } from '../peers/modules.js';
import { joined } from './onnxruntime.js';
import type { Task, Work } from './protocol.js';
import { inputsOf, type Loaded } from './serve.js';

/** transformers.js with our CLIP tower as a local model: one folder for each number of photos, nothing from the network. */
export async function loadTransformersJs(task: Task): Promise<Loaded> {
  const transformers = (await importFrom(
    task.moduleFolder ?? '',
    '@huggingface/transformers',
  )) as unknown as TransformersJs;
  const { AutoModel, env, Tensor } = transformers;
  env.allowRemoteModels = false;
  env.localModelPath = task.modelFolder ?? '';
  const computes = new Map<string, () => Promise<Float32Array>>();
  const load = async (work: Work): Promise<() => Promise<Float32Array>> => {
    const photos = inputsOf(task, work);
    const model = await AutoModel.from_pretrained(`${task.part}-${photos.length}`, {
      device: 'cpu',
      dtype: 'fp32',
      session_options: { intraOpNumThreads: task.threads },
    });
    const pixels = new Tensor('float32', joined(photos), [photos.length, ...task.inputShape]);
    return async () => {
      const { [onnxNames.output]: result } = await model({ [onnxNames.input]: pixels });
      if (!result) throw new Error('the model gave no result');
      return result.data;
    };
  };
  for (const work of task.works) computes.set(work.name, await load(work));
  return {
    compute: (work) => computes.get(work.name)?.() ?? Promise.reject(new Error(`no model for ${work.name}`)),
  };
}
