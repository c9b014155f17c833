/** What a learning rate follows. */
export interface ScheduleOptions {
  readonly schedule: 'cosine' | 'constant';
  readonly warmupSteps: number;
  /** Steps in all, where the cosine ends. */
  readonly steps: number;
  /** Where the cosine ends, as a share of the peak. */
  readonly minLearningRateRatio: number;
}

/**
 * The share of the peak learning rate at a step: up from 1/w to 1 in the w warm-up steps, then constant, or down along half a cosine
 * (Loshchilov and Hutter 2017) to `minLearningRateRatio` at the last step.
 * @param step from 0
 */
export function learningRateFactor(step: number, options: ScheduleOptions): number {
  const { schedule, warmupSteps, steps, minLearningRateRatio: least } = options;
  if (step < warmupSteps) return (step + 1) / warmupSteps;
  if (schedule === 'constant') return 1;
  const progress = Math.min(1, (step - warmupSteps) / Math.max(1, steps - 1 - warmupSteps));
  return least + (1 - least) * 0.5 * (1 + Math.cos(Math.PI * progress));
}

/**
 * Decay of the moving average at an update: less at first, so that the average of a short run is not that of its first steps. Source: TensorFlow's
 * `ExponentialMovingAverage` with `num_updates`.
 * @param update from 1
 * @param most the configured decay
 */
export function averageDecay(update: number, most: number): number {
  return Math.min(most, (1 + update) / (10 + update));
}
