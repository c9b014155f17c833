import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import sharp, { type Sharp } from 'sharp';
import { ArgumentError, ImageError, messageOf } from '../errors.js';
import { isSystemError } from '../io/files.js';
import { describe } from '../kinds.js';
import { mostPixels } from '../options.js';

/** Decoded pixels: rows of interleaved 8-bit RGB. */
export interface RawImage {
  /** height × width × 3 bytes. */
  readonly data: Uint8Array;
  /** In pixels. */
  readonly width: number;
  /** In pixels. */
  readonly height: number;
  readonly channels: 3;
}

/**
 * A photo: the path (or file URL) of an image file, the bytes of one, decoded pixels, or preprocessed pixels: the Float32Array
 * [3, size, size] that Hugging Face's `CLIPImageProcessor` calls `pixel_values`.
 */
export type Photo = string | URL | Uint8Array | RawImage | Float32Array;

export interface DecodeOptions {
  /** Colour under transparent pixels, like `'#ffffff'` or `'white'`. Default: white. */
  background?: string | undefined;
  /** Largest width × height that is decoded; guards against files that unpack to gigabytes. Default: 100 million; at most 715 million. */
  maxPixels?: number | undefined;
}

export const defaultMaxPixels = 100_000_000;

/** What sharp calls the formats that are read. It reads more (SVG, PDF), which run more code than a photo from a stranger should. */
const formats: ReadonlySet<string> = new Set(['jpeg', 'png', 'webp', 'avif', 'heif', 'tiff', 'gif']);

/** Where a photo stood in a call, for messages. */
export interface PhotoPosition {
  readonly identity?: number | undefined;
  readonly photo: number;
}

/** "photo 2 of identity 0 (face.jpg)" */
export function describePhoto(photo: Photo, { identity, photo: index }: PhotoPosition): string {
  const place = identity === undefined ? `photo ${index}` : `photo ${index} of identity ${identity}`;
  if (typeof photo === 'string') return `${place} (${photo})`;
  return photo instanceof URL ? `${place} (${photo.href})` : place;
}

function isRawImage(photo: unknown): photo is RawImage {
  return (
    typeof photo === 'object' && photo !== null && 'data' in photo && 'width' in photo && 'height' in photo
  );
}

/**
 * Throws unless `photo` is one of the things that a photo can be.
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`; {ImageError} `ERR_PIXELS_INVALID` for pixels of the wrong size
 */
export function checkPhoto(
  photo: unknown,
  position: PhotoPosition,
  imageSize: number,
): asserts photo is Photo {
  const fail = (message: string): never => {
    throw new ImageError(
      'ERR_PIXELS_INVALID',
      `${describePhoto(photo as Photo, position)}: ${message}`,
      position,
    );
  };
  if (typeof photo === 'string' || photo instanceof URL) return;
  if (photo instanceof Float32Array) {
    const expected = 3 * imageSize * imageSize;
    if (photo.length !== expected) {
      fail(
        `preprocessed pixels have ${photo.length} values, expected 3 × ${imageSize} × ${imageSize} = ${expected}`,
      );
    }
    return;
  }
  if (photo instanceof Uint8Array) return;
  if (isRawImage(photo)) {
    const { data, width, height, channels } = photo as { [K in keyof RawImage]: unknown };
    if (!(data instanceof Uint8Array))
      fail(`the data of raw pixels is ${describe(data)}, expected a Uint8Array`);
    if (channels !== 3) fail(`raw pixels have ${String(channels)} channels, expected 3 (RGB)`);
    if (!Number.isInteger(width) || !Number.isInteger(height) || Number(width) < 1 || Number(height) < 1) {
      fail(`raw pixels are ${String(width)} × ${String(height)}, expected whole numbers of at least 1`);
    }
    if (Number(width) * Number(height) > mostPixels) {
      throw new ImageError(
        'ERR_IMAGE_TOO_LARGE',
        `${describePhoto(photo, position)}: ${String(width)} × ${String(height)} pixels, expected at most ${mostPixels}`,
        position,
      );
    }
    const expected = Number(width) * Number(height) * 3;
    if ((data as Uint8Array).length !== expected) {
      fail(
        `raw pixels have ${(data as Uint8Array).length} bytes, expected ${Number(width)} × ${Number(height)} × 3 = ${expected}`,
      );
    }
    return;
  }
  throw new ArgumentError(
    `photo ${position.photo}${position.identity === undefined ? '' : ` of identity ${position.identity}`} is ` +
      `${describe(photo)}, expected a path, the bytes of an image file, raw RGB pixels or preprocessed pixels`,
  );
}

/** The bytes of a photo. @throws {ImageError} `ERR_IMAGE_NOT_FOUND` or `ERR_IMAGE_UNREADABLE` */
export async function bytesOf(
  photo: string | URL | Uint8Array,
  name: string,
  position: PhotoPosition,
): Promise<Uint8Array> {
  if (photo instanceof Uint8Array) return photo;
  try {
    return await readFile(photo instanceof URL ? fileURLToPath(photo) : photo);
  } catch (cause) {
    const isUrl = typeof photo === 'string' && /^(https?|file|data):/.test(photo);
    const hint = isUrl ? '; URLs are not fetched: pass the bytes, or new URL(…) of a file' : '';
    const missing =
      cause instanceof Error && 'code' in cause && (cause.code === 'ENOENT' || cause.code === 'ENOTDIR');
    const reason = isSystemError(cause, 'EISDIR') ? 'this is a folder, expected a file' : messageOf(cause);
    throw new ImageError(
      missing ? 'ERR_IMAGE_NOT_FOUND' : 'ERR_IMAGE_UNREADABLE',
      `${name}: ${missing ? `there is no such file${hint}` : reason}`,
      { cause, ...position },
    );
  }
}

/** A photo that has been looked at, not yet decoded. */
export interface PreparedPhoto {
  /** Gives the upright image in sRGB, laid on the background; grey ones may still have one channel (see {@link rgbPixels}). */
  readonly image: Sharp;
  /** Of the upright image, in pixels. */
  readonly width: number;
  /** Of the upright image, in pixels. */
  readonly height: number;
}

/**
 * Reads a photo's header and sets up how it is decoded, by the rules of {@link decodePhoto}.
 * @param name begins messages
 * @throws {ImageError} `ERR_IMAGE_UNREADABLE` or `ERR_IMAGE_TOO_LARGE`
 */
export async function preparePhoto(
  bytes: Uint8Array,
  name: string,
  position: Partial<PhotoPosition>,
  { background = '#ffffff', maxPixels = defaultMaxPixels }: DecodeOptions = {},
): Promise<PreparedPhoto> {
  if (bytes.byteLength === 0) {
    throw new ImageError('ERR_IMAGE_UNREADABLE', `${name}: the file is empty`, position);
  }
  // The limit is ours, checked below with both numbers in the message.
  const settings = { failOn: 'error', limitInputPixels: false } as const;
  const { width, height, space, hasAlpha, format, autoOrient } = await decoding(name, position, () =>
    sharp(bytes, settings).metadata(),
  );
  if (!formats.has(format)) {
    throw new ImageError(
      'ERR_IMAGE_UNREADABLE',
      `${name}: the format is ${format}, expected JPEG, PNG, WebP, AVIF, TIFF or GIF`,
      position,
    );
  }
  if (width * height > maxPixels) {
    throw new ImageError(
      'ERR_IMAGE_TOO_LARGE',
      `${name}: ${width} × ${height} pixels, expected at most ${maxPixels} (maxPixels)`,
      position,
    );
  }
  let image = sharp(bytes, { ...settings, ignoreIcc: space !== 'cmyk' }).autoOrient();
  if (hasAlpha) image = image.flatten({ background });
  return {
    image: image.toColourspace('srgb').removeAlpha(),
    width: autoOrient.width,
    height: autoOrient.height,
  };
}

/**
 * Runs libvips on a photo.
 * @throws {ImageError} `ERR_IMAGE_UNREADABLE` when it fails
 */
export async function decoding<T>(
  name: string,
  position: Partial<PhotoPosition>,
  body: () => Promise<T>,
): Promise<T> {
  try {
    return await body();
  } catch (cause) {
    // libvips keeps one error text for all threads: further lines may be of other photos.
    const [reason] = messageOf(cause).split('\n');
    throw new ImageError('ERR_IMAGE_UNREADABLE', `${name}: not an image that can be decoded (${reason})`, {
      cause,
      ...position,
    });
  }
}

/** Decodes to 8-bit RGB. */
export async function rgbPixels(image: Sharp): Promise<RawImage> {
  const { data, info } = await image.raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true });
  return {
    data: info.channels === 3 ? data : repeated(data),
    width: info.width,
    height: info.height,
    channels: 3,
  };
}

/**
 * Decodes a photo in full to 8-bit RGB: JPEG, PNG, WebP, AVIF, TIFF, GIF (the first frame of a moving image). EXIF orientation is
 * applied; transparency is laid on `background`; grey, palette, 16-bit and CMYK images are converted to 8-bit sRGB. Embedded colour
 * profiles of RGB images are ignored, as Pillow does, so that embeddings agree with Python's.
 *
 * Runs on libuv's threads. Peak memory: the file and about twice 3 bytes a pixel.
 * @throws {ImageError} `ERR_IMAGE_NOT_FOUND`, `ERR_IMAGE_UNREADABLE` (empty, cut off, or no image) or `ERR_IMAGE_TOO_LARGE`
 */
export async function decodePhoto(
  photo: string | URL | Uint8Array,
  position: PhotoPosition,
  options: DecodeOptions = {},
): Promise<RawImage> {
  const name = describePhoto(photo, position);
  const bytes = await bytesOf(photo, name, position);
  const { image } = await preparePhoto(bytes, name, position, options);
  return decoding(name, position, () => rgbPixels(image));
}

/** Grey to RGB. */
function repeated(grey: Uint8Array): Uint8Array {
  const rgb = new Uint8Array(grey.length * 3);
  for (let i = 0; i < grey.length; i++) rgb.fill(grey[i] ?? 0, 3 * i, 3 * i + 3);
  return rgb;
}
