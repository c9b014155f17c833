/** Work that is begun before it is asked for. */

/** Nobody waits for what failed before its turn: its error is met when the promise is awaited. */
export function quiet<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}

/** 0 to count − 1. */
export function* range(count: number): Generator<number, void, void> {
  for (let i = 0; i < count; i++) yield i;
}

/**
 * What `make` gives for each item, in order; a few are under way before they are asked for. Whoever stops early waits for these.
 * @param depth how many are under way at once
 * @throws what `make` throws, when the item's turn comes; the signal's reason
 */
export async function* ahead<Item, T>(
  items: Iterable<Item>,
  depth: number,
  make: (item: Item) => Promise<T>,
  signal?: AbortSignal,
): AsyncGenerator<T, void, void> {
  const waiting: Promise<T>[] = [];
  const upcoming = items[Symbol.iterator]();
  try {
    for (;;) {
      signal?.throwIfAborted();
      while (waiting.length < depth) {
        const next = upcoming.next();
        if (next.done === true) break;
        waiting.push(quiet(make(next.value)));
      }
      const first = waiting.shift();
      if (!first) return;
      yield await first;
    }
  } finally {
    await Promise.allSettled(waiting);
  }
}
