import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { createInterface } from 'node:readline';
import type { Message, Task, Work } from './protocol.js';

/** A model that has been loaded: what it needs to compute a work, and to count its flops, where it can. */
export interface Loaded {
  compute(work: Work): Promise<Float32Array>;
  flops?(work: Work): Promise<number>;
  /** flop/s that the processor reaches in registers. */
  peak?(): Promise<number>;
}

/** The inputs of a work, photo by photo. */
export function inputsOf(task: Task, work: Work): Float32Array[] {
  const size = task.inputShape.reduce((product, n) => product * n, 1);
  const bytes = readFileSync(task.inputs);
  const all = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  const photos = work.identities.reduce((sum, n) => sum + n, 0);
  return Array.from({ length: photos }, (_, i) => all.slice(i * size, (i + 1) * size));
}

/**
 * The most memory that this process had resident, bytes. Not from `resourceUsage()`: Linux counts there what the process had before it became
 * this program, which is the parent's memory.
 */
export function peakResidentBytes(): number {
  if (!existsSync('/proc/self/status')) return 1024 * process.resourceUsage().maxRSS;
  const status = readFileSync('/proc/self/status', 'utf8');
  return 1024 * Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1] ?? NaN);
}

const send = (message: Message): void => void process.stdout.write(`${JSON.stringify(message)}\n`);
const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function sample(loaded: Loaded, work: Work): Promise<Message> {
  const before = await loaded.peak?.();
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  // The histogram counts from its second tick on.
  await wait(20);
  delay.reset();
  const begin = performance.now();
  for (let i = 0; i < work.repeat; i++) await loaded.compute(work);
  const seconds = (performance.now() - begin) / 1000 / work.repeat;
  await wait(5);
  delay.disable();
  const after = await loaded.peak?.();
  return {
    type: 'sample',
    seconds,
    ...(before === undefined || after === undefined ? {} : { peak: Math.max(before, after) }),
    loopDelay: { p50: delay.percentile(50) / 1e9, p99: delay.percentile(99) / 1e9 },
  };
}

/** The contestant's side of the protocol: loads, computes every work once, then does as it is told. */
export async function serve<T extends Pick<Task, 'works' | 'outputs'>>(
  task: T,
  load: (task: T) => Promise<Loaded>,
): Promise<void> {
  try {
    const started = performance.now();
    const loaded = await load(task);
    const loadSeconds = (performance.now() - started) / 1000;
    const works: Record<string, { firstSeconds: number; flops?: number }> = {};
    for (const work of task.works) {
      const begin = performance.now();
      const outputs = await loaded.compute(work);
      const firstSeconds = (performance.now() - begin) / 1000;
      const bytes = new Uint8Array(outputs.buffer, outputs.byteOffset, outputs.byteLength);
      writeFileSync(join(task.outputs, `${work.name}.f32`), bytes);
      const flops = await loaded.flops?.(work);
      works[work.name] = { firstSeconds, ...(flops === undefined ? {} : { flops }) };
    }
    send({ type: 'ready', loadSeconds, works });
    for await (const line of createInterface({ input: process.stdin })) {
      if (line === 'end') break;
      const work = task.works.find(({ name }) => line === `run ${name}`);
      if (!work) throw new Error(`cannot ${line}`);
      send(await sample(loaded, work));
    }
    send({ type: 'end', peakBytes: peakResidentBytes() });
    process.exit(0);
  } catch (error) {
    send({ type: 'error', message: error instanceof Error ? error.message : String(error) });
    process.exit(1);
  }
}
