// A contestant's process: the task as its only argument, then the protocol of contestants/protocol.ts on standard input and output.
import { loadOmniId } from './contestants/omni_id.js';
import { loadTraining } from './contestants/omni_id_training.js';
import { loadOnnxruntime } from './contestants/onnxruntime.js';
import type { Task } from './contestants/protocol.js';
import { serve } from './contestants/serve.js';
import { loadTransformersJs } from './contestants/transformers_js.js';
import type { TrainingTask } from './training/protocol.js';

const loaders = {
  'omni-id': loadOmniId,
  'onnxruntime-node': loadOnnxruntime,
  'transformers.js': loadTransformersJs,
} as const;

const task = JSON.parse(process.argv[2] ?? '{}') as Task | TrainingTask;
if ('case' in task) {
  await serve(task, loadTraining);
} else {
  const load = loaders[task.contestant as keyof typeof loaders] as (typeof loaders)['omni-id'] | undefined;
  await serve(task, load ?? (() => Promise.reject(new Error(`there is no contestant ${task.contestant}`))));
}
