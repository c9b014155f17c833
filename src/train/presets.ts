import type { TrainingConfigInput } from './config.js';

/** Training runs by name. */
export const trainingPresets = {
  /**
   * Needs no data: 2,000 rendered people with 12 views each, 112 px, from new weights, in an hour or two on two cores. The encoder is smaller than `nano`, and the
   * decoder sees 10 of 196 small patches: what was tried stands in docs/choices.md.
   */
  'nano-synth': {
    encoder: { preset: 'nano', vision: { hiddenSize: 256, numHiddenLayers: 6 }, tokens: 32, width: 256 },
    decoders: [{ type: 'mtd', patchSize: 8, width: 192, heads: 3 }],
    data: { kind: 'rendered', identities: 2000, views: 12, heldOut: { identities: 64 } },
    sampling: { identities: 4, inputs: 3, targets: 8 },
    optimizer: { learningRate: 1e-3, warmupSteps: 300 },
    steps: 15_000,
    log: { every: 20, imagesEvery: 1000, evaluateEvery: 500 },
    checkpoints: { every: 500 },
  },
} as const satisfies Record<string, TrainingConfigInput>;

export type TrainingPresetName = keyof typeof trainingPresets;
