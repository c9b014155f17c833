import { openSync, closeSync, readSync } from 'node:fs';
import { native } from '../../src/bindings.js';
import { openDevice, type DeviceOptions } from '../../src/graph/devices.js';
import { Session, type Place } from '../../src/graph/session.js';
import { openCheckpoint } from '../../src/io/checkpoint.js';
import { tokensPerImage } from '../../src/models/clip_vision.js';
import { TrainingEngine, type StepData } from '../../src/train/engine.js';
import { decays, optimizer, stepModel, stepShape, type Batch, type TrainingCase } from './cases.js';

/** A case that is trained by us, on one batch again and again. */
export interface TrainingRun {
  readonly session: Session;
  /** The next step. @returns its loss, of the parameters before it */
  step(): Promise<number>;
  dispose(): void;
}

/** Reads the parameters one by one: what is measured is the memory of training, not of two copies of a file. */
async function readParameters(engine: TrainingEngine, folder: string): Promise<void> {
  const checkpoint = await openCheckpoint(folder);
  for (const slot of engine.layout.slots) {
    const stored = checkpoint.get(slot.name);
    if (!stored) throw new Error(`${folder} has no ${slot.name}`);
    const values = new Float32Array(slot.count);
    const file = openSync(stored.file, 'r');
    const read = readSync(file, values, 0, values.byteLength, stored.byteOffset);
    closeSync(file);
    if (read !== values.byteLength) throw new Error(`${stored.file} ends inside ${slot.name}`);
    engine.state.write('values', slot, values);
  }
}

/** The inputs of a step's graph: identities of equally many photos. */
function stepData(session: Session, one: TrainingCase, batch: Batch): StepData {
  const place = (values: Float32Array | Int32Array): Place => {
    const dtype = values instanceof Int32Array ? 'i32' : 'f32';
    const tensor = session.tensor({ dtype, shape: [values.length] });
    tensor.write(values, 0);
    return { tensor, element: 0 };
  };
  const rising = (length: number, step: number): Int32Array =>
    Int32Array.from({ length }, (_, i) => i * step);
  const { identities, encoder } = one;
  const rows = one.inputs * tokensPerImage(encoder.vision);
  const inside = batch.mask.reduce((sum, value) => sum + value, 0);
  return {
    pixels: place(batch.inputs),
    photo_starts: place(rising(identities, rows)),
    photo_offsets: place(rising(identities + 1, rows)),
    query_starts: place(rising(identities, 0)),
    query_offsets: place(rising(identities + 1, encoder.tokens)),
    'mtd.targets': place(batch.targets),
    'mtd.visible': place(batch.visible),
    'mtd.mask': place(batch.mask),
    'mtd.normalizer': place(Float32Array.of(3 * inside)),
  };
}

/** @param folder of the parameters, see `parametersFolder` */
export async function startTraining(
  one: TrainingCase,
  batch: Batch,
  options: { folder: string; dtype: 'f32' | 'bf16' } & DeviceOptions,
): Promise<TrainingRun> {
  const session = new Session(openDevice(options), new (native().Weights)());
  const { betas, epsilon, clipGradNorm, learningRate, weightDecay } = optimizer;
  const engine = new TrainingEngine(session, stepModel(one, options.dtype), {
    betas,
    epsilon,
    average: false,
    clipGradNorm,
    rateOf: (slot) => ({ rate: 1, decay: decays(slot) ? weightDecay : 0 }),
  });
  await readParameters(engine, options.folder);
  const data = stepData(session, one, batch);
  let steps = 0;
  return {
    session,
    step: async () => {
      const settings = { step: ++steps, learningRate, averageDecay: 0 };
      const kind = { gradients: 'new', update: true, show: false } as const;
      const { losses, norm } = await engine.run(stepShape(one), kind, data, { settings });
      if (!Number.isFinite(norm)) throw new Error(`the gradients' norm is ${norm} in step ${steps}`);
      return losses['mtd'] ?? NaN;
    },
    dispose: () => {
      for (const { tensor } of Object.values(data)) tensor.dispose();
      engine.dispose();
    },
  };
}
