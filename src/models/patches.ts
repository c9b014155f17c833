/** Pictures as a masked transformer decoder predicts them: patches row by row, the pixels of each in the order [y][x][channel], as in MAE. */

export interface PatchGrid {
  readonly imageSize: number;
  readonly patchSize: number;
}

/** Calls `visit` with the place of every value of a picture, in the order of patches: channel, y · size + x, and index among the patches' values. */
function eachValue(
  { imageSize, patchSize }: PatchGrid,
  visit: (channel: number, pixel: number, index: number) => void,
): void {
  let index = 0;
  for (let top = 0; top + patchSize <= imageSize; top += patchSize) {
    for (let left = 0; left + patchSize <= imageSize; left += patchSize) {
      for (let y = top; y < top + patchSize; y++) {
        for (let x = left; x < left + patchSize; x++) {
          for (let channel = 0; channel < 3; channel++) visit(channel, y * imageSize + x, index++);
        }
      }
    }
  }
}

/** The picture that patches make, f32 [3, size, size]. */
export function pictureOf(patches: Float32Array, grid: PatchGrid): Float32Array {
  const pixels = grid.imageSize * grid.imageSize;
  const picture = new Float32Array(3 * pixels);
  eachValue(grid, (channel, pixel, index) => {
    picture[channel * pixels + pixel] = patches[index] ?? NaN;
  });
  return picture;
}

/**
 * Mean of |patches − target| over the pixels inside of a mask, in all channels: equation 4 of the paper for one target.
 * @param target f32 [3, size, size]
 * @param mask [size, size], not 0 inside; absent: every pixel counts
 * @returns NaN when the mask is empty
 */
export function maskedError(
  patches: Float32Array,
  target: Float32Array,
  mask: Uint8Array | undefined,
  grid: PatchGrid,
): number {
  const pixels = grid.imageSize * grid.imageSize;
  let sum = 0;
  let count = 0;
  eachValue(grid, (channel, pixel, index) => {
    if (mask?.[pixel] === 0) return;
    sum += Math.abs((patches[index] ?? NaN) - (target[channel * pixels + pixel] ?? NaN));
    count++;
  });
  return sum / count;
}

/**
 * 8-bit RGB [height, width, 3] of a normalised picture [3, height, width]. Values outside of what a byte holds are cut off; NaN is black.
 * @param mean and std: what values from 0 to 1 were normalised with
 */
export function rgbBytes(
  picture: Float32Array,
  mean: readonly [number, number, number],
  std: readonly [number, number, number],
): Uint8Array {
  const pixels = picture.length / 3;
  const bytes = new Uint8Array(picture.length);
  for (const channel of [0, 1, 2] as const) {
    const scale = 255 * std[channel];
    const shift = 255 * mean[channel];
    for (let i = 0; i < pixels; i++) {
      const value = Math.round((picture[channel * pixels + i] ?? 0) * scale + shift);
      bytes[3 * i + channel] = Math.min(255, Math.max(0, value));
    }
  }
  return bytes;
}
