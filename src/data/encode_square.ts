import sharp from 'sharp';
import { bytesToNpy } from '../io/npy.js';
import type { EncodedImage } from './dataset.js';

/** How squares are written: decoded, or as an image; JPEG and WebP in high quality. */
export type PhotoEncoding = 'npy' | 'png' | 'jpg' | 'webp';

/** Without a name: it is given where it is written. */
export type EncodedSquare = Omit<EncodedImage, 'name'>;

/** @param pixels RGB, [size, size, 3] */
export async function encodedPhoto(
  pixels: Uint8Array,
  size: number,
  encoding: PhotoEncoding,
): Promise<EncodedSquare> {
  if (encoding === 'npy') return { extension: 'npy', bytes: bytesToNpy(pixels, [size, size, 3]) };
  const photo = sharp(pixels, { raw: { width: size, height: size, channels: 3 } });
  const written = {
    png: () => photo.png(),
    // Chroma at full size: at 112 pixels lips and irises are a few pixels wide.
    jpg: () => photo.jpeg({ quality: 95, chromaSubsampling: '4:4:4' }),
    webp: () => photo.webp({ quality: 95 }),
  }[encoding]();
  return { extension: encoding, bytes: await written.toBuffer() };
}

/**
 * Without loss, whatever the photo's encoding.
 * @param mask [size, size]; @param encoding of the photo
 */
export async function encodedMask(
  mask: Uint8Array,
  size: number,
  encoding: PhotoEncoding,
): Promise<EncodedSquare> {
  if (encoding === 'npy') return { extension: 'npy', bytes: bytesToNpy(mask, [size, size]) };
  const grey = sharp(mask, { raw: { width: size, height: size, channels: 1 } }).toColourspace('b-w');
  return { extension: 'png', bytes: await grey.png().toBuffer() };
}
