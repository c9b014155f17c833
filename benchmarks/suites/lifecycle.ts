import type { Suite } from '../context.js';
import { isBuilt, runUserProgram } from '../user_program.js';

/** Moments of a process, seconds since it was started. */
interface Moments {
  readonly imported: number;
  readonly loaded: number;
  readonly first: number;
  readonly second: number;
  readonly disposed: number;
}

/** What each row is the time of. */
const rows: Record<string, (m: Moments) => number> = {
  'import the package': (m) => m.imported,
  load: (m) => m.loaded - m.imported,
  'first result': (m) => m.first - m.loaded,
  'second result': (m) => m.second - m.first,
  dispose: (m) => m.disposed - m.second,
  'start to first result': (m) => m.first,
};

/** A process from its start to its end, with the packed cache and without. */
export const lifecycleSuite: Suite = {
  name: 'lifecycle',
  what: 'process start, load, first result, dispose',
  names: ['cached', 'uncached'],
  run: async (context) => {
    const size = context.size('h');
    const live = (packedCache: 'write' | 'ignore'): Promise<Moments> =>
      runUserProgram(context, 'lifecycle', size, 1, { packedCache });
    const ways = { cached: 'write', uncached: 'ignore' } as const;
    for (const [way, packedCache] of Object.entries(ways)) {
      if (!context.wants(way)) continue;
      context.log(`lifecycle: ${way}, "${size}"`);
      const cold = await live(packedCache);
      const warm: Moments[] = [];
      for (let round = 0; round < context.rounds(5); round++) warm.push(await live(packedCache));
      for (const [name, of] of Object.entries(rows)) {
        context.add({
          suite: 'lifecycle',
          name: `${name}, ${way}`,
          contestant: 'omni-id',
          dtype: 'bf16',
          status: 'ok',
          ...(isBuilt() ? {} : { note: 'the package is not built: tsx adds its start' }),
          unit: 's',
          cold: [of(cold)],
          warm: warm.map(of),
        });
      }
    }
  },
};
