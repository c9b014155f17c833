import { join } from 'node:path';
import { writeFileAtomically } from '../io/atomic_file.js';
import { omniIdConfigToJson, type OmniIdEncoderConfig } from '../io/config.js';
import { makeFolder } from '../io/files.js';
import { writeHeldOutRecord, type HeldOutRecord } from '../io/held_out_record.js';
import { writeSafetensors, type TensorSource } from '../io/safetensors_writer.js';
import type { Decoder } from './decoders.js';
import type { TrainingEngine } from './engine.js';
import { readWeight, type RunWeight } from './initial_weights.js';

/** A weight that a model gets: its values are asked for in pieces. */
export interface ExportedWeight {
  readonly name: string;
  readonly shape: readonly number[];
  /** Values [first, first + count). */
  readonly read: (first: number, count: number) => Float32Array | Promise<Float32Array>;
}

/** What a run has trained so far: the moving average where it keeps one. */
export function trainedWeights(engine: TrainingEngine, weights: readonly RunWeight[]): ExportedWeight[] {
  const vector = engine.state.average ? 'average' : 'values';
  return weights.map(({ name, shape, slot }) => ({
    name,
    shape,
    read: (first, count) =>
      slot
        ? engine.state.read(vector, { ...slot, offset: slot.offset + first, count })
        : readWeight(engine.session.weights, name, first, count),
  }));
}

/**
 * Writes what a run has trained as a model folder: the encoder, which `OmniIdEncoder.load` opens, and each decoder in a folder of its name
 * inside, and who was held out. Each file is replaced as a whole or not at all.
 * @throws {FileError} `ERR_FILE`
 */
export async function exportModel(
  folder: string,
  encoder: OmniIdEncoderConfig,
  decoders: readonly Decoder[],
  weights: readonly ExportedWeight[],
  heldOut: HeldOutRecord,
): Promise<void> {
  await makeFolder(folder);
  await writeHeldOutRecord(folder, heldOut);
  const ofEncoder = weights.filter(({ name }) => name.startsWith('encoder.'));
  await writeModel(folder, 'encoder.', omniIdConfigToJson(encoder), ofEncoder);
  for (const decoder of decoders) {
    const inside = join(folder, decoder.name);
    await makeFolder(inside);
    const prefix = `${decoder.name}.`;
    const own = weights.filter(({ name }) => name.startsWith(prefix));
    const exported = decoder.exported(
      encoder,
      own.map(({ name }) => name.slice(prefix.length)),
    );
    const named = new Set(exported.weights);
    const kept = own.filter(({ name }) => named.has(name.slice(prefix.length)));
    await writeModel(inside, prefix, exported.config, kept);
  }
}

/** @param prefix of the weights' names, which the file's do not have */
async function writeModel(
  folder: string,
  prefix: string,
  config: Record<string, unknown>,
  weights: readonly ExportedWeight[],
): Promise<void> {
  const tensors = weights.map(({ name, shape, read }): TensorSource => ({
    name: name.slice(prefix.length),
    dtype: 'F32',
    shape,
    byteLength: 4 * shape.reduce((product, n) => product * n, 1),
    read: async (first, count) => {
      const values = await read(first / 4, count / 4);
      return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    },
  }));
  await writeSafetensors(join(folder, 'model.safetensors'), tensors, { metadata: { format: 'pt' } });
  const json = `${JSON.stringify(config, null, 2)}\n`;
  await writeFileAtomically(join(folder, 'config.json'), (file) => file.writeFile(json));
}
