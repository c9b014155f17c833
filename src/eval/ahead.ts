/**
 * What `make` gives for 0 to count − 1, in order; a few are under way before they are asked for. Whoever stops early waits for these.
 * @param depth how many are under way at once
 */
export async function* ahead<T>(
  count: number,
  depth: number,
  make: (index: number) => Promise<T>,
): AsyncGenerator<T, void, void> {
  const waiting: Promise<T>[] = [];
  let next = 0;
  try {
    while (next < count || waiting.length > 0) {
      while (next < count && waiting.length < depth) {
        const one = make(next++);
        one.catch(() => undefined); // met when its turn comes
        waiting.push(one);
      }
      const first = waiting.shift();
      if (first) yield await first;
    }
  } finally {
    await Promise.allSettled(waiting);
  }
}
