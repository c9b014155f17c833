import type { Task } from '../contestants/protocol.js';
import type { Size } from '../fixtures.js';

/**
 * What a contestant of the training race is told, in the protocol of `contestants/protocol.ts`: it computes `first steps` once, whose outputs are the losses of
 * the first three steps, and then one `step` after another.
 */
export interface TrainingTask extends Pick<
  Task,
  'device' | 'dtype' | 'threads' | 'works' | 'outputs' | 'folder' | 'peakSeconds'
> {
  readonly contestant: string;
  readonly size: Size;
  /** Folder of the batch: `inputs`, `targets`, `mask` f32 and `visible` i32, raw. */
  readonly batch: string;
  /** Sizes of the case. */
  readonly case: Readonly<Record<string, unknown>>;
  readonly optimizer: Readonly<Record<string, unknown>>;
  /** Parameters that weight decay applies to; all others have none. */
  readonly decayed: readonly string[];
  /** Whether PyTorch compiles the model. */
  readonly compile: boolean;
}

/** Steps whose losses are compared before times count. */
export const comparedSteps = 3;
export const firstSteps = 'first steps';
export const oneStep = 'step';
