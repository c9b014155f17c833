import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { arch, availableParallelism, platform, totalmem } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { native } from '../src/bindings.js';
import { packageRoot } from './paths.js';
import { median, quantile } from './statistics.js';

/** Version of the JSON that the suite writes. A change of meaning makes a new one; `compare` and `chart` read only this one. */
export const schemaVersion = 1;

const samples = z.array(z.number());
const status = z.enum(['ok', 'wrong', 'failed']);

const rowSchema = z.object({
  suite: z.string(),
  /** What is measured, and by whom: these and `dtype` tell rows apart. */
  name: z.string(),
  contestant: z.string(),
  dtype: z.enum(['f32', 'bf16']).optional(),
  status,
  /** Why a row is wrong or failed, or what a reader should know. */
  note: z.string().optional(),
  /** Unit of the samples. Less is better. */
  unit: z.enum(['s', 'bytes']),
  /** Samples of first times (nothing cached, nothing warmed up), and of all others. */
  cold: samples,
  warm: samples,
  /** Of the warm samples, or of the cold ones where there are no others. */
  median: z.number().nullable(),
  p50: z.number().nullable(),
  p90: z.number().nullable(),
  p99: z.number().nullable(),
  /** What one sample did. */
  images: z.number().optional(),
  identities: z.number().optional(),
  flops: z.number().optional(),
  bytes: z.number().optional(),
  imagesPerSecond: z.number().nullable().optional(),
  identitiesPerSecond: z.number().nullable().optional(),
  /** 1e9 flop/s and 1e9 bytes/s at the median. */
  gflops: z.number().nullable().optional(),
  gbps: z.number().nullable().optional(),
  /** Peak of the device, flop/s, measured around each warm sample, and the share of it that was reached: the median over the samples. */
  peaks: samples.optional(),
  peakShare: z.number().nullable().optional(),
  /** Against whose numbers the outputs were compared: largest |a − b| / largest |b|, and the smallest cosine of a row of the output. */
  error: z
    .object({ against: z.string(), relative: z.number().nullable(), cosine: z.number().nullable() })
    .optional(),
  /** Most memory that the process had resident. */
  peakBytes: z.number().optional(),
  /** Percentiles of the event loop's delay during the samples, seconds. */
  loopDelay: z.object({ p50: z.number(), p99: z.number() }).optional(),
  /** Place on a curve: the batch or the number of threads. */
  at: z.number().optional(),
});

const ratioSchema = z.object({
  name: z.string(),
  value: z.number(),
  samples,
  better: z.enum(['higher', 'lower']),
  note: z.string(),
});

export const resultsSchema = z.object({
  schema: z.literal('omni-id-bench'),
  version: z.literal(schemaVersion),
  date: z.string(),
  commit: z.string(),
  packageVersion: z.string(),
  compiler: z.string(),
  node: z.string(),
  platform: z.string(),
  processor: z.string(),
  processors: z.number(),
  memoryBytes: z.number(),
  instructionSet: z.string(),
  threads: z.number(),
  /** CUDA devices that ours was measured on besides the CPU, or why on none. */
  cuda: z.string().optional(),
  quick: z.boolean(),
  options: z.record(z.string(), z.unknown()),
  /** flop/s and bytes/s, measured when the run began. 0: the processor has no such instructions. */
  peak: z.object({ f32: z.number(), bf16: z.number(), memoryRead: z.number() }),
  peers: z.array(z.object({ name: z.string(), found: z.boolean(), detail: z.string() })),
  rows: z.array(rowSchema),
  ratios: z.array(ratioSchema),
});

export type Row = z.infer<typeof rowSchema>;
export type Ratio = z.infer<typeof ratioSchema>;
export type Results = z.infer<typeof resultsSchema>;

/** What a suite says of a row; the rest follows from it. */
export type Measured = Omit<
  Row,
  | 'median'
  | 'p50'
  | 'p90'
  | 'p99'
  | 'imagesPerSecond'
  | 'identitiesPerSecond'
  | 'gflops'
  | 'gbps'
  | 'peakShare'
>;

const finite = (value: number): number | null => (Number.isFinite(value) ? value : null);

/** Fills in the statistics of a row. */
export function rowOf(measured: Measured): Row {
  const { cold, warm, images, identities, flops, bytes, peaks } = measured;
  const seconds = warm.length > 0 ? warm : cold;
  const middle = median(seconds);
  const per = (amount: number | undefined, scale: number): number | null | undefined =>
    amount === undefined || measured.unit !== 's' ? undefined : finite((scale * amount) / middle);
  return {
    ...measured,
    median: finite(middle),
    p50: finite(quantile(seconds, 0.5)),
    p90: finite(quantile(seconds, 0.9)),
    p99: finite(quantile(seconds, 0.99)),
    imagesPerSecond: per(images, 1),
    identitiesPerSecond: per(identities, 1),
    gflops: per(flops, 1e-9),
    gbps: per(bytes, 1e-9),
    peakShare: peaks && flops !== undefined ? finite(median(peakShares(flops, seconds, peaks))) : undefined,
  };
}

/** Share of the peak for every sample, each against the peak that was measured around it. */
export function peakShares(flops: number, seconds: readonly number[], peaks: readonly number[]): number[] {
  return seconds.map((one, i) => flops / one / (peaks[i] ?? NaN));
}

function commit(): string {
  if (!existsSync(join(packageRoot, '.git'))) return 'none';
  try {
    const git = (...rest: string[]): string =>
      execFileSync('git', ['-C', packageRoot, ...rest], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      }).trim();
    return (
      git('rev-parse', '--short=12', 'HEAD') +
      (git('status', '--porcelain', '-uno') === '' ? '' : ', changed')
    );
  } catch {
    return 'unknown';
  }
}

/** Results without rows: the machine, the build and its peaks. */
export async function newResults(options: {
  quick: boolean;
  threads: number | undefined;
  cuda: string;
  given: Record<string, unknown>;
}): Promise<Results> {
  const binding = native();
  const device = new binding.Device('cpu', options.threads);
  const { instructionSet, threads } = device.describe();
  const seconds = options.quick ? 0.05 : 0.3;
  return {
    schema: 'omni-id-bench',
    version: schemaVersion,
    date: new Date().toISOString(),
    commit: commit(),
    packageVersion: binding.version,
    compiler: binding.compiler,
    node: process.versions.node,
    platform: `${platform()}-${arch()}`,
    processor: binding.processorName(),
    processors: availableParallelism(),
    memoryBytes: totalmem(),
    instructionSet,
    threads,
    cuda: options.cuda,
    quick: options.quick,
    options: options.given,
    peak: {
      f32: await device.measurePeak('f32', seconds),
      bf16: await device.measurePeak('bf16', seconds),
      memoryRead: await device.measurePeak('memoryRead', seconds),
    },
    peers: [],
    rows: [],
    ratios: [],
  };
}
