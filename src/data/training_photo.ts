import sharp, { type Sharp } from 'sharp';
import { FormatError, ImageError } from '../errors.js';
import { check, whole } from '../kinds.js';
import { npyToBytes } from '../io/npy.js';
import type { EncodedImage, EncodedPhoto, TrainingPhoto } from './dataset.js';
import { decoding, describePhoto, preparePhoto, rgbPixels, type PhotoPosition } from './photo.js';

/** Side of a photo as training needs it, in pixels. */
export const photoSide = whole(1, 4096);

/** An image that has been looked at, not yet decoded: decoded pixels, or what sharp makes of a file. */
interface Opened {
  readonly width: number;
  readonly height: number;
  /** Interleaved, `channels` a pixel, where they need no decoding. */
  readonly pixels: Uint8Array | undefined;
  readonly image: () => Sharp;
}

/** Decoded pixels in a .npy file: [height, width, 3] of a photo, [height, width] of a mask. */
function openPixels(file: EncodedImage, channels: 1 | 3, name: string, position: PhotoPosition): Opened {
  try {
    const { data, shape } = npyToBytes(file.bytes, name);
    const [height = 0, width = 0, depth = 1] = shape;
    if (shape.length !== (channels === 3 ? 3 : 2) || depth !== channels || width < 1 || height < 1) {
      const expected = channels === 3 ? '[height, width, 3]' : '[height, width]';
      throw new FormatError(`${name} has the shape [${shape.join(', ')}], expected ${expected}`);
    }
    return { width, height, pixels: data, image: () => sharp(data, { raw: { width, height, channels } }) };
  } catch (cause) {
    if (cause instanceof FormatError) {
      throw new ImageError('ERR_IMAGE_UNREADABLE', cause.message, { cause, ...position });
    }
    throw cause;
  }
}

async function open(file: EncodedImage, channels: 1 | 3, position: PhotoPosition): Promise<Opened> {
  const name = describePhoto(file.name, position);
  if (file.extension === 'npy') return openPixels(file, channels, name, position);
  // What is transparent in a mask is not the face.
  const options = channels === 1 ? { background: '#000000' } : {};
  const { width, height, image } = await preparePhoto(file.bytes, name, position, options);
  return { width, height, pixels: undefined, image: () => image };
}

/** Sizes that a photo and its mask must have alike. */
function checkSizes(photo: Opened, mask: Opened, name: string, position: PhotoPosition): void {
  if (photo.width === mask.width && photo.height === mask.height) return;
  throw new ImageError(
    'ERR_PIXELS_INVALID',
    `${describePhoto(name, position)} is a mask of ${mask.width} × ${mask.height} pixels, expected those of its photo: ` +
      `${photo.width} × ${photo.height}`,
    position,
  );
}

/**
 * The square in the middle, scaled. A photo and its mask take the very same way but for the kernel, so that the mask lies on the face: a
 * nearest neighbour keeps it a mask. The crop is told in numbers because sharp rounds it to the other side in photos that lie on their
 * side (EXIF).
 */
function square({ width, height, image }: Opened, size: number, kernel: 'lanczos3' | 'nearest'): Sharp {
  if (width === size && height === size) return image();
  const scale = size / Math.min(width, height);
  const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
  return image()
    .resize({ width: w, height: h, fit: 'fill', kernel })
    .extract({ left: (w - size) >> 1, top: (h - size) >> 1, width: size, height: size });
}

/**
 * Decodes a photo and its mask to squares. Transparency is laid on white; large JPEGs are shrunk while they are decoded,
 * so the pixels are not those of {@link decodePhoto}.
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT` for a size that is none; {ImageError} see {@link IdentityDataset.read}
 */
export async function decodeTrainingPhoto(
  photo: EncodedPhoto,
  size: number,
  position: PhotoPosition,
): Promise<TrainingPhoto> {
  check('size', size, photoSide);
  const image = await open(photo.image, 3, position);
  const mask = photo.mask && (await open(photo.mask, 1, position));
  if (mask) checkSizes(image, mask, photo.mask.name, position);
  const fits = image.width === size && image.height === size;

  let pixels = fits ? image.pixels : undefined;
  pixels ??= await decoding(describePhoto(photo.image.name, position), position, async () => {
    const { data } = await rgbPixels(square(image, size, 'lanczos3'));
    return data;
  });
  if (!mask) return { pixels, mask: undefined };
  if (fits && mask.pixels) return { pixels, mask: mask.pixels };
  const inside = await decoding(describePhoto(photo.mask.name, position), position, () =>
    square(mask, size, 'nearest').extractChannel(0).toColourspace('b-w').raw({ depth: 'uchar' }).toBuffer(),
  );
  return { pixels, mask: inside };
}

/** Width and height of a photo, upright, in pixels. @throws {ImageError} `ERR_IMAGE_UNREADABLE` or `ERR_IMAGE_TOO_LARGE` */
export async function photoSize(
  photo: EncodedPhoto,
  position: PhotoPosition,
): Promise<{ width: number; height: number }> {
  const { width, height } = await open(photo.image, 3, position);
  return { width, height };
}
