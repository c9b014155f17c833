import { join } from 'node:path';
import { writeFileAtomically } from '../io/atomic_file.js';
import { omniIdConfigToJson } from '../io/config.js';
import { makeFolder } from '../io/files.js';
import { writeHeldOutRecord, type HeldOutRecord } from '../io/held_out_record.js';
import { writeSafetensors, type TensorSource } from '../io/safetensors_writer.js';
import type { TrainingConfig } from './config.js';
import type { TrainingEngine } from './engine.js';
import { readWeight, type RunWeight } from './initial_weights.js';

/**
 * Writes what a run has trained as a model folder: the encoder, which `OmniIdEncoder.load` opens, and each decoder in a folder of its name
 * inside, and who was held out. The weights are the moving average where the run keeps one. Each file is replaced as a whole or not at all.
 * @throws {FileError} `ERR_FILE`
 */
export async function exportModel(
  folder: string,
  config: TrainingConfig,
  engine: TrainingEngine,
  weights: readonly RunWeight[],
  heldOut: HeldOutRecord,
): Promise<void> {
  await makeFolder(folder);
  await writeHeldOutRecord(folder, heldOut);
  const ofEncoder = weights.filter(({ name }) => name.startsWith('encoder.'));
  await writeModel(folder, 'encoder.', omniIdConfigToJson(config.encoder), engine, ofEncoder);
  for (const decoder of engine.model.decoders) {
    const inside = join(folder, decoder.name);
    await makeFolder(inside);
    const prefix = `${decoder.name}.`;
    const own = weights.filter(({ name }) => name.startsWith(prefix));
    const exported = decoder.exported(
      config.encoder,
      own.map(({ name }) => name.slice(prefix.length)),
    );
    const named = new Set(exported.weights);
    const kept = own.filter(({ name }) => named.has(name.slice(prefix.length)));
    await writeModel(inside, prefix, exported.config, engine, kept);
  }
}

/** @param prefix of the weights' names, which the file's do not have */
async function writeModel(
  folder: string,
  prefix: string,
  config: Record<string, unknown>,
  engine: TrainingEngine,
  weights: readonly RunWeight[],
): Promise<void> {
  const vector = engine.state.average ? 'average' : 'values';
  const tensors = weights.map(({ name, shape, slot }): TensorSource => ({
    name: name.slice(prefix.length),
    dtype: 'F32',
    shape,
    byteLength: 4 * shape.reduce((product, n) => product * n, 1),
    read: (first, count) => {
      const values = slot
        ? engine.state.read(vector, { ...slot, offset: slot.offset + first / 4, count: count / 4 })
        : readWeight(engine.session.weights, name, first / 4, count / 4);
      return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    },
  }));
  await writeSafetensors(join(folder, 'model.safetensors'), tensors, { metadata: { format: 'pt' } });
  const json = `${JSON.stringify(config, null, 2)}\n`;
  await writeFileAtomically(join(folder, 'config.json'), (file) => file.writeFile(json));
}
