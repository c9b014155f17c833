import type { TrainingConfigInput } from './config.js';

/** Training runs by name; each has its encoder in `presets` under the same name. */
export const trainingPresets = {
  /**
   * Needs no data: 2,000 rendered people with 12 views each, 112 px, from new weights, in an hour or two on two cores. The encoder is smaller than `nano`, heads turn
   * less than they can, and the vision tower learns more slowly than the rest: what was tried stands in docs/choices.md.
   */
  'nano-synth': {
    encoder: 'nano-synth',
    decoders: [{ type: 'mtd' }],
    data: {
      kind: 'rendered',
      identities: 2000,
      views: 12,
      view: { poseSpread: 0.4, crop: 0.85, jitter: false },
      heldOut: { identities: 64 },
    },
    sampling: { identities: 8, inputs: 3, targets: 8 },
    optimizer: { learningRate: 3e-4, backboneLearningRate: 1e-4, warmupSteps: 200 },
    steps: 18_000,
    log: { every: 20, imagesEvery: 1000, evaluateEvery: 500 },
    checkpoints: { every: 500 },
  },
} as const satisfies Record<string, TrainingConfigInput>;

export type TrainingPresetName = keyof typeof trainingPresets;
