import type { ImageProcessorConfig } from '../io/image_processor.js';

/**
 * Decoded pixels that already have the model's size as training sees them: rescaled and normalised, not resized.
 * @param pixels RGB, [size, size, 3]
 * @returns f32 [3, size, size]
 */
export function normalised(
  pixels: Uint8Array,
  { rescaleFactor, mean, std }: Pick<ImageProcessorConfig, 'rescaleFactor' | 'mean' | 'std'>,
): Float32Array {
  const count = pixels.length / 3;
  const planes = new Float32Array(pixels.length);
  for (const channel of [0, 1, 2] as const) {
    const values = Float32Array.from(
      { length: 256 },
      (_, v) => (v * rescaleFactor - mean[channel]) / std[channel],
    );
    for (let i = 0; i < count; i++) planes[channel * count + i] = values[pixels[3 * i + channel] ?? 0] ?? NaN;
  }
  return planes;
}
