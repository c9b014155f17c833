import { z } from 'zod';
import { ConfigError } from '../errors.js';
import { describe } from '../kinds.js';
import { only, parsed, pixels, positive, positiveTriple, triple } from './schema.js';

/** How photos become pixels: Hugging Face's `CLIPImageProcessor`. */
export interface ImageProcessorConfig {
  /** Length that the shorter edge is resized to, in pixels. */
  readonly shortestEdge: number;
  /** Side of the centre crop, in pixels: the model's image size. */
  readonly cropSize: number;
  readonly rescaleFactor: number;
  readonly mean: readonly [number, number, number];
  readonly std: readonly [number, number, number];
}

/** OpenAI's CLIP normalisation. */
const clipMean = [0.48145466, 0.4578275, 0.40821073] as const;
const clipStd = [0.26862954, 0.26130258, 0.27577711] as const;

/** transformers' `preprocessor_config.json`. */
export const preprocessor = z.object({
  do_resize: only(true).default(true),
  do_center_crop: only(true).default(true),
  do_rescale: only(true).default(true),
  do_normalize: only(true).default(true),
  resample: only(3, 'only bicubic resampling is supported').default(3),
  size: z
    .union([pixels, z.object({ shortest_edge: pixels }), z.object({ height: pixels, width: pixels })], {
      error: ({ input }) =>
        `is ${describe(input)}, expected a number of pixels, { shortest_edge } or { height, width }`,
    })
    .optional(),
  crop_size: z
    .union([pixels, z.object({ height: pixels, width: pixels })], {
      error: ({ input }) => `is ${describe(input)}, expected a number of pixels or { height, width }`,
    })
    .optional(),
  rescale_factor: positive.default(1 / 255),
  image_mean: triple.optional(),
  image_std: positiveTriple.optional(),
});

/** CLIPImageProcessor's defaults for a model of this image size. */
export function defaultImageProcessor(imageSize: number): ImageProcessorConfig {
  return {
    shortestEdge: imageSize,
    cropSize: imageSize,
    rescaleFactor: 1 / 255,
    mean: clipMean,
    std: clipStd,
  };
}

/** @throws {ConfigError} `ERR_CONFIG` when the sizes do not fit each other or the model */
export function processorFrom(
  p: z.output<typeof preprocessor>,
  imageSize: number,
  name: string,
): ImageProcessorConfig {
  const side = (
    value: number | { height: number; width: number } | { shortest_edge: number } | undefined,
  ): number => {
    if (value === undefined) return imageSize;
    if (typeof value === 'number') return value;
    if ('shortest_edge' in value) return value.shortest_edge;
    if (value.height !== value.width)
      throw new ConfigError(`${name}: a size is ${value.height} × ${value.width}, expected a square`);
    return value.height;
  };
  const cropSize = side(p.crop_size);
  if (cropSize !== imageSize) {
    throw new ConfigError(`${name}: crop_size is ${cropSize}, but the model's image_size is ${imageSize}`);
  }
  // transformers resizes to exactly such a size, also when that makes a photo broader or narrower than it is.
  if (typeof p.size === 'object' && 'height' in p.size) {
    throw new ConfigError(
      `${name}: size has height and width, which distorts photos that are not of that form; expected shortest_edge`,
    );
  }
  return {
    shortestEdge: side(p.size),
    cropSize,
    rescaleFactor: p.rescale_factor,
    mean: p.image_mean ?? clipMean,
    std: p.image_std ?? clipStd,
  };
}

/** @throws {ConfigError} `ERR_CONFIG` listing every problem */
export function parseImageProcessor(json: unknown, imageSize: number, name: string): ImageProcessorConfig {
  return processorFrom(parsed(preprocessor, json, name), imageSize, name);
}

/**
 * open_clip's `PreprocessCfg`, as far as it changes pixels. Its `size` is not read: open_clip takes the tower's. Of its ways to resize, `shortest`
 * is CLIP's: to the shorter edge, then the middle is cropped.
 */
const openClipPreprocess = z.object({
  mode: only('RGB').optional(),
  interpolation: only('bicubic').optional(),
  resize_mode: only('shortest').optional(),
  mean: triple.default([...clipMean]),
  std: positiveTriple.default([...clipStd]),
});

/**
 * The `preprocess_cfg` of an `open_clip_config.json`; undefined when the file is none or has none.
 * @throws {ConfigError} `ERR_CONFIG` listing every problem
 */
export function parseOpenClipPreprocess(
  json: unknown,
  imageSize: number,
  name: string,
): ImageProcessorConfig | undefined {
  if (typeof json !== 'object' || json === null || !('model_cfg' in json) || !('preprocess_cfg' in json))
    return undefined;
  const { mean, std } = parsed(z.object({ preprocess_cfg: openClipPreprocess }), json, name).preprocess_cfg;
  return { ...defaultImageProcessor(imageSize), mean, std };
}

/** What {@link parseImageProcessor} reads. */
export function imageProcessorToJson(p: ImageProcessorConfig): Record<string, unknown> {
  return {
    size: { shortest_edge: p.shortestEdge },
    crop_size: p.cropSize,
    resample: 3,
    rescale_factor: p.rescaleFactor,
    image_mean: p.mean,
    image_std: p.std,
  };
}
