// Folders of trained pairs, encoder and `mtd` within it, as training writes them.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { mtdConfigToJson, type MtdConfig } from '../../src/io/mtd_config.js';
import { omniIdConfigToJson, type OmniIdEncoderConfig } from '../../src/io/config.js';
import { writeSafetensors, type TensorSource } from '../../src/io/safetensors_writer.js';

export interface PlainTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** Writes the weights of one model. */
export async function writeModel(
  folder: string,
  config: Record<string, unknown>,
  weights: ReadonlyMap<string, PlainTensor>,
): Promise<void> {
  mkdirSync(folder, { recursive: true });
  const tensors = [...weights].map(([name, { shape, data }]): TensorSource => {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    return {
      name,
      dtype: 'F32',
      shape,
      byteLength: bytes.length,
      read: (first, count) => bytes.subarray(first, first + count),
    };
  });
  await writeSafetensors(join(folder, 'model.safetensors'), tensors);
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
}

/** Writes a pair from weights named as in training: `encoder.…` and `mtd.…`. */
export async function writePair(
  folder: string,
  configs: { encoder: OmniIdEncoderConfig; mtd: MtdConfig },
  weights: ReadonlyMap<string, PlainTensor>,
): Promise<void> {
  const part = (prefix: string): Map<string, PlainTensor> =>
    new Map(
      [...weights]
        .filter(([name]) => name.startsWith(prefix))
        .map(([name, tensor]) => [name.slice(prefix.length), tensor]),
    );
  await writeModel(folder, omniIdConfigToJson(configs.encoder), part('encoder.'));
  await writeModel(join(folder, 'mtd'), mtdConfigToJson(configs.mtd), part('mtd.'));
}
