import { z } from 'zod';
import type { DeviceName } from '../../src/graph/devices.js';

/**
 * How the suite talks to a contestant, which lives in a process of its own: JSON lines. A contestant loads its model, computes every work once, writes the outputs,
 * says `ready`, and then computes when it is told to (`run <work>`), until `end`. So contestants take turns, and a slow spell of the machine meets
 * all of them. The Python peer speaks the same lines.
 */

/** One thing to compute, again and again. */
export interface Work {
  readonly name: string;
  /** Photos of every identity; photo numbers count up from 0 over all of them. */
  readonly identities: readonly number[];
  /** How often it is computed for one sample, so that a sample is long enough to be timed. */
  readonly repeat: number;
}

/**
 * What of the model is computed: `tokens` of the whole encoder from preprocessed pixels, `features` of its CLIP tower alone, or one `block` of the
 * tower, from hidden states.
 */
export type Part = 'tokens' | 'features' | 'block';

export interface Task {
  readonly contestant: string;
  readonly part: Part;
  readonly dtype: 'f32' | 'bf16';
  readonly threads: number;
  /** Where ours computes; peers compute on the CPU. */
  readonly device: DeviceName;
  /** Weights: config.json and model.safetensors, f32. */
  readonly folder: string;
  /** Photos (or, for a block, hidden states) of all works: f32, one after another. */
  readonly inputs: string;
  /** Values of one photo there, and its shape. */
  readonly inputShape: readonly number[];
  readonly works: readonly Work[];
  /** Folder for the outputs: `<work>.f32`. */
  readonly outputs: string;
  /** Seconds for which the peak is measured before and after every sample; only ours can. */
  readonly peakSeconds: number;
  /** What a peer needs besides: the folder of its module, of its models. */
  readonly moduleFolder?: string | undefined;
  readonly modelFolder?: string | undefined;
}

const readySchema = z.object({
  type: z.literal('ready'),
  loadSeconds: z.number(),
  works: z.record(z.string(), z.object({ firstSeconds: z.number(), flops: z.number().optional() })),
});
const sampleSchema = z.object({
  type: z.literal('sample'),
  seconds: z.number(),
  /** flop/s, the larger of before and after. */
  peak: z.number().optional(),
  /** Seconds. */
  loopDelay: z.object({ p50: z.number(), p99: z.number() }).optional(),
});
const endSchema = z.object({ type: z.literal('end'), peakBytes: z.number() });
const errorSchema = z.object({ type: z.literal('error'), message: z.string() });

export const messageSchema = z.discriminatedUnion('type', [
  readySchema,
  sampleSchema,
  endSchema,
  errorSchema,
]);
export type Message = z.infer<typeof messageSchema>;
export type Ready = z.infer<typeof readySchema>;
export type Sample = z.infer<typeof sampleSchema>;
export type End = z.infer<typeof endSchema>;
