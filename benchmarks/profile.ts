import type { StepProfile } from '../src/bindings.js';
import { native } from '../src/bindings.js';
import { OmniIdEncoder } from '../src/models/omni_id_encoder.js';
import type { ComputeDType } from '../src/models/model.js';
import { configOf, modelFolder, pixelsOf, type Size } from './fixtures.js';
import { percent, short, table } from './format.js';
import { median } from './statistics.js';
import { batchOf, parametersFolder, trainingCase } from './training/cases.js';
import { startTraining } from './training/run.js';

/** All steps of one operator with the same types: what a profile has a line for. */
export interface OperatorProfile {
  readonly op: string;
  /** Types of inputs, weights and outputs, and attributes. */
  readonly shape: string;
  readonly calls: number;
  readonly seconds: number;
  readonly flops: number;
  readonly bytes: number;
}

/** Types of inputs and outputs but vectors, and attributes: what a step does, in a line. */
export function describeStep({ inputs, outputs, attributes }: StepProfile): string {
  const typed = (types: StepProfile['inputs']): string =>
    types
      .filter(({ shape }) => shape.length > 1)
      .map(({ dtype, shape }) => `${dtype}[${shape.join('×')}]`)
      .join(' ');
  const rest = Object.entries(attributes).filter(([name]) => name !== 'output');
  const more = rest.map(([name, value]) => (typeof value === 'string' ? value : `${name} ${value}`));
  return `${typed(inputs)} → ${typed(outputs)}${more.length > 0 ? ` ${more.join(', ')}` : ''}`;
}

/** Steps put together by operator and shape, the slowest first. Seconds are the medians over the runs. */
export function aggregate(runs: readonly (readonly StepProfile[])[]): OperatorProfile[] {
  const lines = new Map<string, { first: StepProfile; calls: number; seconds: number[] }>();
  for (const [i, steps] of runs.entries()) {
    for (const step of steps) {
      const key = `${step.op} ${describeStep(step)}`;
      const line = lines.get(key) ?? { first: step, calls: 0, seconds: [] };
      line.seconds[i] = (line.seconds[i] ?? 0) + step.seconds;
      if (i === 0) line.calls++;
      lines.set(key, line);
    }
  }
  return [...lines.values()]
    .map(({ first, calls, seconds }) => ({
      op: first.op,
      shape: describeStep(first),
      calls,
      seconds: median(seconds),
      flops: calls * first.flops,
      bytes: calls * first.bytes,
    }))
    .sort((a, b) => b.seconds - a.seconds);
}

export interface ProfileOptions {
  readonly size: Size;
  readonly dtype: ComputeDType;
  /** Photos of the one identity that is embedded. */
  readonly batch: number;
  readonly rounds: number;
  readonly threads: number | undefined;
}

export interface Profile {
  readonly operators: readonly OperatorProfile[];
  /** Medians: of the whole call, and of the sum of its steps. */
  readonly wallSeconds: number;
  readonly stepSeconds: number;
  /** flop/s of the type that is computed in, and bytes/s. */
  readonly peak: number;
  readonly memoryRead: number;
}

/** Where the time of something goes that runs plans. The peak is the best of what is measured between the runs. */
async function profiled(
  { dtype, rounds, threads }: ProfileOptions,
  run: () => Promise<readonly StepProfile[]>,
): Promise<Profile> {
  const device = new (native().Device)('cpu', threads);
  await run();
  const memoryRead = await device.measurePeak('memoryRead', 0.2);
  const peaks: number[] = [];
  const measure = async (): Promise<void> => {
    const own = await device.measurePeak(dtype, 0.1);
    peaks.push(own > 0 ? own : await device.measurePeak('f32', 0.1));
  };
  const runs: (readonly StepProfile[])[] = [];
  const walls: number[] = [];
  await measure();
  for (let round = 0; round < rounds; round++) {
    const begin = performance.now();
    runs.push(await run());
    walls.push((performance.now() - begin) / 1000);
    await measure();
  }
  return {
    operators: aggregate(runs),
    wallSeconds: median(walls),
    stepSeconds: median(runs.map((steps) => steps.reduce((sum, { seconds }) => sum + seconds, 0))),
    peak: Math.max(...peaks),
    memoryRead,
  };
}

/** The encoder, from photos' pixels to tokens. @returns a text */
export async function profileEncoder(
  options: ProfileOptions,
  log: (message: string) => void,
): Promise<string> {
  const { size, dtype, batch, threads } = options;
  const folder = await modelFolder(size, log);
  const { vision } = configOf(size);
  const photos = Array.from({ length: batch }, (_, i) => pixelsOf(i, vision.imageSize));
  await using encoder = await OmniIdEncoder.load(folder, { dtype, threads, packedCache: 'write' });
  const profile = await profiled(
    options,
    async () => (await encoder.profile(() => encoder.embed([photos]))).steps,
  );
  const what = `encoder "${size}", ${dtype}, 1 identity of ${batch} photos`;
  return formatProfile(profile, what, { name: 'images', count: batch });
}

/** One step of few-to-many training: forward, backward and the optimizer. @returns a text */
export async function profileTraining(
  options: ProfileOptions,
  log: (message: string) => void,
): Promise<string> {
  const { size, dtype, threads } = options;
  const one = trainingCase(size);
  const { folder } = await parametersFolder(one, log);
  const run = await startTraining(one, batchOf(one), { folder, dtype, threads });
  const profile = await profiled(options, async () => {
    let profiles: readonly StepProfile[] = [];
    run.session.onProfile = (steps) => (profiles = steps);
    await run.step();
    return profiles;
  });
  run.dispose();
  const what = `training step "${size}", ${dtype}, ${one.identities} identities × ${one.inputs} → ${one.targets}`;
  return formatProfile(profile, what, { name: 'identities', count: one.identities });
}

function formatProfile(profile: Profile, what: string, per: { name: string; count: number }): string {
  const { operators, wallSeconds, stepSeconds, peak, memoryRead } = profile;
  const flops = operators.reduce((sum, one) => sum + one.flops, 0);
  const lines = operators.map(({ op, shape, calls, seconds, ...cost }) => [
    op,
    shape,
    String(calls),
    (seconds * 1e3).toFixed(2),
    percent(seconds / stepSeconds),
    short(cost.flops / seconds, 1e-9),
    percent(cost.flops / seconds / peak),
    short(cost.bytes / seconds, 1e-9),
  ]);
  const head = ['operator', 'shape', 'calls', 'ms', 'share', 'GFLOP/s', 'of peak', 'GB/s'];
  return (
    `${what}; peak ${short(peak, 1e-9)} GFLOP/s, memory read ${short(memoryRead, 1e-9)} GB/s\n\n` +
    `${table(head, lines)}\n\n` +
    `steps ${(stepSeconds * 1e3).toFixed(1)} ms, call ${(wallSeconds * 1e3).toFixed(1)} ms, ${short(flops, 1e-9)} GFLOP: ` +
    `${short(flops / wallSeconds, 1e-9)} GFLOP/s, ${percent(flops / wallSeconds / peak)} of peak, ${short(per.count / wallSeconds)} ${per.name}/s`
  );
}
