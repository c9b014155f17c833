import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openDevice } from '../../src/graph/devices.js';
import { readSafetensors, type LoadedTensor } from '../../src/io/safetensors.js';

/** Golden cases: inputs and outputs of PyTorch, transformers and Pillow. `OMNI_ID_GOLDEN` names another folder of the same form. */
export const goldenFolder = process.env['OMNI_ID_GOLDEN'] ?? join(import.meta.dirname, '..', 'golden');

if (process.env['OMNI_ID_DEVICE']) {
  // What is not the CPU says so, and what is no device at all but an emulation.
  const { kind, instructionSet } = openDevice({}).describe();
  console.log(`  on ${kind}: ${instructionSet}`);
}

export interface GoldenCase {
  readonly folder: string;
  readonly config: Record<string, unknown>;
  readonly io: Map<string, LoadedTensor>;
}

export async function golden(name: string): Promise<GoldenCase> {
  const folder = join(goldenFolder, name);
  if (!existsSync(folder)) throw new Error(`there is no golden case ${name} in ${goldenFolder}`);
  return {
    folder,
    config: JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Record<string, unknown>,
    io: await readSafetensors(join(folder, 'io.safetensors')),
  };
}

/** An f32 tensor of a case. */
export function tensorOf(
  io: Map<string, LoadedTensor>,
  name: string,
): { shape: readonly number[]; data: Float32Array } {
  const tensor = io.get(name);
  if (!(tensor?.data instanceof Float32Array)) throw new Error(`the golden case has no f32 tensor ${name}`);
  return { shape: tensor.shape, data: tensor.data };
}
