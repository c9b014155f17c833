import { freemem, totalmem } from 'node:os';

/**
 * Bytes that this process can still take, without what swapping gives: what the system says is available, and what the limit of the process's
 * container leaves. (Node's `availableMemory` counts the container's file cache as taken, which a large data set fills.) macOS calls
 * only what nobody ever used free: there it is all memory.
 */
export function availableMemory(): number {
  const system = process.platform === 'linux' || process.platform === 'win32' ? freemem() : totalmem();
  const limit = process.constrainedMemory();
  // No limit is 0, or far beyond the machine's memory.
  if (!(limit > 0 && limit < totalmem())) return system;
  return Math.max(0, Math.min(system, limit - process.memoryUsage.rss()));
}
