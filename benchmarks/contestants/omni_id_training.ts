import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { trainingCase } from '../training/cases.js';
import { comparedSteps, firstSteps, type TrainingTask } from '../training/protocol.js';
import { startTraining } from '../training/run.js';
import { measurePeak } from './omni_id.js';
import type { Loaded } from './serve.js';

/** Our trainer's engine on one batch. */
export async function loadTraining(task: TrainingTask): Promise<Loaded> {
  const bytes = (name: string): ArrayBufferLike => {
    const file = readFileSync(join(task.batch, name));
    return file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength);
  };
  const run = await startTraining(
    trainingCase(task.size),
    {
      inputs: new Float32Array(bytes('inputs')),
      targets: new Float32Array(bytes('targets')),
      mask: new Float32Array(bytes('mask')),
      visible: new Int32Array(bytes('visible')),
    },
    { folder: task.folder, dtype: task.dtype, device: task.device, threads: task.threads },
  );
  return {
    compute: async (work) => {
      const losses = new Float32Array(work.name === firstSteps ? comparedSteps : 1);
      for (let i = 0; i < losses.length; i++) losses[i] = await run.step();
      return losses;
    },
    flops: async () => {
      let flops = 0;
      run.session.onProfile = (steps) => {
        for (const step of steps) flops += step.flops;
      };
      await run.step();
      run.session.onProfile = undefined;
      return flops;
    },
    ...(task.peakSeconds > 0 ? { peak: () => measurePeak(task) } : {}),
  };
}
