import type { TrainingConfigInput } from './config.js';

/** Training runs by name. */
export const trainingPresets = {
  /** Needs no data: 2,000 rendered people with 12 views each, 112 px, a `nano` encoder from scratch; hours on a processor. */
  'nano-synth': {
    encoder: { preset: 'nano' },
    decoders: [{ type: 'mtd', patchSize: 14 }],
    data: { kind: 'rendered', identities: 2000, views: 12, heldOut: { identities: 64 } },
    sampling: { identities: 4, inputs: 3, targets: 8 },
    optimizer: { learningRate: 5e-4, warmupSteps: 300 },
    steps: 10_000,
    log: { every: 10, imagesEvery: 1000, evaluateEvery: 250 },
    checkpoints: { every: 250 },
  },
} as const satisfies Record<string, TrainingConfigInput>;

export type TrainingPresetName = keyof typeof trainingPresets;
