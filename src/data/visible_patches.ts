import type { PhiloxStream } from './philox.js';

/** K, the patches of a target that stay visible: one at least. */
export function visiblePatches(patches: number, maskRatio: number): number {
  return Math.max(1, Math.round(patches * (1 - maskRatio)));
}

/** Which patches of a target stay visible: K different ones of `patches`, in ascending order. */
export function drawVisible(stream: PhiloxStream, patches: number, visible: number): Int32Array {
  return Int32Array.from(stream.choose(patches, visible)).sort();
}
