import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { dirname, join } from 'node:path';
import { omniIdConfigToJson, type OmniIdEncoderConfig } from '../src/io/config.js';
import { writeSafetensors, type TensorSource } from '../src/io/safetensors_writer.js';
import { omniIdWeights } from '../src/models/omni_id_encoder.js';
import { presets, type PresetName } from '../src/models/presets.js';
import { procedural, proceduralWeight } from '../test/support/procedural.js';

/** An encoder small enough for the tests: everything occurs in it, and odd sizes do too. */
export const tinyConfig: OmniIdEncoderConfig = {
  ...presets.nano,
  vision: {
    ...presets.nano.vision,
    hiddenSize: 96,
    intermediateSize: 200,
    numHiddenLayers: 2,
    numAttentionHeads: 3,
    imageSize: 56,
  },
  imageProcessor: { ...presets.nano.imageProcessor, shortestEdge: 56, cropSize: 56 },
  tokens: 12,
  width: 64,
  heads: 2,
};

/** An encoder on ViT-L/14: between our small preset and the paper's large one. */
export const largeConfig: OmniIdEncoderConfig = {
  ...presets.h,
  vision: {
    ...presets.h.vision,
    hiddenSize: 1024,
    intermediateSize: 4096,
    numHiddenLayers: 24,
  },
  width: 1024,
  heads: 16,
};

/** Sizes that the suite measures. */
export type Size = PresetName | 'tiny' | 'l';
export const sizes: readonly Size[] = ['tiny', 'l', ...(Object.keys(presets) as PresetName[])];

export function configOf(size: Size): OmniIdEncoderConfig {
  if (size === 'tiny') return tinyConfig;
  return size === 'l' ? largeConfig : presets[size];
}

/** What the weights are made by: a change of the formula makes new files. */
export const formula = 'procedural 1';

/** Where weights lie that later runs use again. */
export function benchFolder(): string {
  return join(tmpdir(), `omni-id-bench-${userInfo().uid}`);
}

/**
 * Lets `write` make a folder that is not there yet: aside, and renamed when it is whole, so that a process that was killed leaves nothing that later runs
 * take for it.
 */
export async function madeOnce(folder: string, write: (temporary: string) => Promise<void>): Promise<void> {
  if (existsSync(folder)) return;
  await mkdir(dirname(folder), { recursive: true, mode: 0o700 });
  const temporary = await mkdtemp(`${folder}.`);
  try {
    await write(temporary);
    await rename(temporary, folder).catch((error: unknown) => {
      // Another process was quicker.
      if (!existsSync(folder)) throw error;
    });
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

/** A weight whose values follow from its name. They are made when the first of them is written, and let go with the last. */
export function proceduralSource({
  name,
  shape,
}: {
  readonly name: string;
  readonly shape: readonly number[];
}): TensorSource {
  let bytes: Uint8Array | undefined;
  const byteLength = 4 * shape.reduce((product, n) => product * n, 1);
  return {
    name,
    dtype: 'F32',
    shape,
    byteLength,
    read: (first, count) => {
      bytes ??= new Uint8Array(proceduralWeight(name, shape).buffer);
      const piece = bytes.slice(first, first + count);
      if (first + count === byteLength) bytes = undefined;
      return piece;
    },
  };
}

/**
 * A folder with an encoder of this size whose weights follow from a formula, the same everywhere (`test/support/procedural.ts`). It lies below the system's
 * temporary folder (ViT-H: 2.8 GB in f32), is made once and used again by later runs.
 */
export async function modelFolder(size: Size, log: (message: string) => void): Promise<string> {
  const config = configOf(size);
  const json = JSON.stringify(omniIdConfigToJson(config));
  const key = createHash('sha256').update(formula).update(json).digest('hex').slice(0, 12);
  const folder = join(benchFolder(), `${size}-${key}`);
  // config.json is written last: where it is, the weights are whole.
  const done = join(folder, 'config.json');
  if (existsSync(done) && readFileSync(done, 'utf8') === json) return folder;
  log(`making the weights of "${size}" in ${folder}`);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const tensors = [...omniIdWeights(config).values()].map(proceduralSource);
  await writeSafetensors(join(folder, 'model.safetensors'), tensors);
  await writeFile(done, json);
  return folder;
}

/** Preprocessed pixels of photo number `index`, f32 [3, size, size]. */
export function pixelsOf(index: number, imageSize: number): Float32Array {
  return procedural(`photo ${index}`, 3 * imageSize ** 2, 0, 1.7);
}
