import type { Context } from '../context.js';
import { median } from '../statistics.js';
import { isBuilt, runUserProgram } from '../user_program.js';

/** Loads the encoder with its packed cache and embeds one identity, `times` times. */
function startProgram(
  context: Context,
  photos: number,
  times: number,
): Promise<{ seconds: number; peakBytes: number }> {
  return runUserProgram(context, 'start', context.size('h'), photos, { times });
}

/** From the start of the process to the first tokens of one photo, with a packed cache that the system has in memory. */
export async function startRatio(context: Context): Promise<void> {
  const size = context.size('h');
  const start = async (): Promise<number> => (await startProgram(context, 1, 1)).seconds;
  const cold = [await start()];
  const warm: number[] = [];
  for (let round = 0; round < context.rounds(7); round++) warm.push(await start());
  const note =
    `encoder "${size}", bf16: process start to the tokens of one photo, packed cache in memory` +
    (isBuilt() ? '' : '; the package is not built: run as source through tsx, which adds its start');
  context.ratio({ name: 'start.seconds', value: median(warm), samples: warm, better: 'lower', note });
  const common = { suite: 'encoder', contestant: 'omni-id', dtype: 'bf16', status: 'ok', unit: 's' } as const;
  context.add({ ...common, name: 'start to first tokens', note, cold, warm, images: 1 });
}

/** Most memory that a process has resident which embeds batches of four photos; the mapped weights count. */
export async function memoryRatio(context: Context): Promise<void> {
  const size = context.size('h');
  const embed = async (): Promise<number> => (await startProgram(context, 4, 2)).peakBytes;
  // The first time may make the packed cache, which takes memory of its own.
  const cold = [await embed()];
  const warm: number[] = [];
  for (let round = 0; round < context.rounds(3); round++) warm.push(await embed());
  const note = `encoder "${size}", bf16, one identity of 4 photos: peak resident memory of the process, weights included`;
  context.ratio({ name: 'memory.bytes', value: median(warm), samples: warm, better: 'lower', note });
  const common = {
    suite: 'encoder',
    contestant: 'omni-id',
    dtype: 'bf16',
    status: 'ok',
    unit: 'bytes',
  } as const;
  context.add({ ...common, name: 'peak memory of a process', note, cold, warm });
}
