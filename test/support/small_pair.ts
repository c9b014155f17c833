// A pair small enough to evaluate in a test: 28 pixels, patches of 7, with new weights.
import { join } from 'node:path';
import {
  MaskedTransformerDecoder,
  OmniIdEncoder,
  type MtdConfig,
  type OmniIdEncoderConfig,
} from '../../src/index.js';
import { defaultImageProcessor } from '../../src/io/image_processor.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { writePair, type PlainTensor } from './trained_pair.js';

const imageProcessor = defaultImageProcessor(28);

export const smallEncoder: OmniIdEncoderConfig = {
  vision: {
    hiddenSize: 32, intermediateSize: 64, numHiddenLayers: 1, numAttentionHeads: 2, imageSize: 28, patchSize: 7,
    numChannels: 3, hiddenAct: 'gelu', layerNormEps: 1e-5,
  }, // prettier-ignore
  imageProcessor,
  tokens: 4,
  width: 24,
  heads: 2,
  mlpRatio: 2,
  crossBlocks: 1,
  selfBlocks: 1,
  layerNormEps: 1e-5,
  features: 'last_hidden_state',
};

export const smallMtd: MtdConfig = {
  imageSize: 28,
  patchSize: 7,
  width: 16,
  heads: 2,
  mlpRatio: 2,
  crossBlocks: 1,
  selfBlocks: 1,
  layerNormEps: 1e-5,
  tokenWidth: 24,
  maskRatio: 0.9,
  imageMean: imageProcessor.mean,
  imageStd: imageProcessor.std,
};

/** Writes the pair into a folder, with the weights that match replaced by zeros. */
export async function writeSmallPair(folder: string, zeroed?: RegExp): Promise<void> {
  await using encoder = await OmniIdEncoder.create(smallEncoder, { seed: 3 });
  await encoder.save(folder);
  await using decoder = await MaskedTransformerDecoder.create(smallMtd, { seed: 3 });
  await decoder.save(join(folder, 'mtd'));
  if (!zeroed) return;
  const weights = new Map<string, PlainTensor>();
  for (const [prefix, part] of [
    ['encoder.', '.'],
    ['mtd.', 'mtd'],
  ] as const) {
    // prettier-ignore
    for (const [name, { shape, data }] of await readSafetensors(join(folder, part, 'model.safetensors'))) {
      if (!(data instanceof Float32Array)) throw new Error(`${name} is not f32`);
      weights.set(prefix + name, { shape, data: zeroed.test(prefix + name) ? data.fill(0) : data });
    }
  }
  await writePair(folder, { encoder: smallEncoder, mtd: smallMtd }, weights);
}
