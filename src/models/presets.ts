import type { OmniIdEncoderConfig } from '../io/config.js';
import { defaultImageProcessor } from '../io/image_processor.js';

const head = {
  mlpRatio: 4,
  crossBlocks: 2,
  selfBlocks: 2,
  layerNormEps: 1e-5,
  features: 'last_hidden_state',
} as const;
const vit = { patchSize: 14, numChannels: 3, hiddenAct: 'gelu', layerNormEps: 1e-5 } as const;

/** Encoders by name. `nano` is ours, small enough to train on a processor, `nano-synth` the smaller one of the training preset; `h` is the paper's, on ViT-H/14. */
export const presets = {
  nano: {
    vision: {
      ...vit, hiddenSize: 384, intermediateSize: 1536, numHiddenLayers: 8, numAttentionHeads: 6, imageSize: 112,
    }, // prettier-ignore
    imageProcessor: defaultImageProcessor(112),
    tokens: 64,
    width: 384,
    heads: 6,
    ...head,
  },
  'nano-synth': {
    vision: {
      ...vit, hiddenSize: 256, intermediateSize: 1024, numHiddenLayers: 6, numAttentionHeads: 4, imageSize: 112,
    }, // prettier-ignore
    imageProcessor: defaultImageProcessor(112),
    tokens: 32,
    width: 256,
    heads: 4,
    ...head,
  },
  h: {
    vision: {
      ...vit, hiddenSize: 1280, intermediateSize: 5120, numHiddenLayers: 32, numAttentionHeads: 16, imageSize: 224,
    }, // prettier-ignore
    imageProcessor: defaultImageProcessor(224),
    tokens: 256,
    width: 1280,
    heads: 20,
    ...head,
  },
} as const satisfies Record<string, OmniIdEncoderConfig>;

export type PresetName = keyof typeof presets;
