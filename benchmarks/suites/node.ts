import type { Suite } from '../context.js';
import { runUserProgram } from '../user_program.js';

/** What `programs/node.mjs` reports, seconds. */
interface NodeTimes {
  /** Ticks of a 1 ms timer, and small `fs.readFile`s. */
  readonly idle: { readonly ticks: number[]; readonly reads: number[] };
  readonly embedding: { readonly ticks: number[]; readonly reads: number[] };
  /** Embedding the batch in one thread, and half of it in each of two worker threads. */
  readonly main: number[];
  readonly workers: number[];
}

/** What embedding at full load does to the rest of a server. */
export const nodeSuite: Suite = {
  name: 'node',
  what: 'event-loop delay, libuv’s thread pool and worker threads while embedding',
  names: ['loop', 'pool', 'workers'],
  run: async (context) => {
    const size = context.size('nano');
    context.log(`node: "${size}"`);
    const batches = 8;
    const rounds = context.rounds(7);
    const times = await runUserProgram<NodeTimes>(context, 'node', size, 4, { batches, rounds });
    const row = (only: string, name: string, warm: number[], images?: number): void => {
      if (!context.wants(only)) return;
      context.add({
        suite: 'node',
        name,
        contestant: 'omni-id',
        dtype: 'bf16',
        status: 'ok',
        unit: 's',
        cold: [],
        warm,
        ...(images === undefined ? {} : { images }),
      });
    };
    row('loop', 'tick of a 1 ms timer, idle', times.idle.ticks);
    row('loop', 'tick of a 1 ms timer, embedding', times.embedding.ticks);
    row('pool', 'fs.readFile, idle', times.idle.reads);
    row('pool', 'fs.readFile, embedding', times.embedding.reads);
    row('workers', 'one thread', times.main, 4 * batches);
    row('workers', 'two worker threads', times.workers, 4 * batches);
  },
};
