import sharp from 'sharp';
import { bytesToNpy } from '../io/npy.js';
import type { EncodedDataset, TrainingPhoto } from './dataset.js';
import { isOfPhoto, type UnreadablePhoto } from './check_dataset.js';
import type { PackedPhoto } from './shard_writer.js';
import { decodeTrainingPhoto } from './training_photo.js';

/** How packed photos are written. */
export type PhotoEncoding = 'npy' | 'png' | 'jpg' | 'webp';

/** Squares of one size, as an encoder of files. */
async function encodedSquare(
  { pixels, mask }: TrainingPhoto,
  size: number,
  encoding: PhotoEncoding,
): Promise<Pick<PackedPhoto, 'image' | 'mask'>> {
  if (encoding === 'npy') {
    const image = { extension: 'npy', bytes: bytesToNpy(pixels, [size, size, 3]) };
    return { image, mask: mask && { extension: 'npy', bytes: bytesToNpy(mask, [size, size]) } };
  }
  const photo = sharp(pixels, { raw: { width: size, height: size, channels: 3 } });
  const written = {
    png: () => photo.png(),
    // Chroma at full size: at 112 pixels lips and irises are a few pixels wide.
    jpg: () => photo.jpeg({ quality: 95, chromaSubsampling: '4:4:4' }),
    webp: () => photo.webp({ quality: 95 }),
  }[encoding]();
  const image = { extension: encoding, bytes: await written.toBuffer() };
  if (!mask) return { image, mask: undefined };
  const grey = sharp(mask, { raw: { width: size, height: size, channels: 1 } }).toColourspace('b-w');
  return { image, mask: { extension: 'png', bytes: await grey.png().toBuffer() } };
}

/**
 * The photos of a data set as they are packed: identity by identity, as they are on disk, or as squares of `size` pixels, which
 * training need not scale.
 * @param options.onUnreadable given a photo that cannot be decoded, which is then left out; without `size` nothing is decoded
 */
export async function* photosToPack(
  dataset: EncodedDataset,
  options: {
    size?: number | undefined;
    encoding: PhotoEncoding;
    onUnreadable: (problem: UnreadablePhoto) => void;
  },
): AsyncGenerator<PackedPhoto, void, void> {
  const { size, encoding, onUnreadable } = options;
  for (let identity = 0; identity < dataset.identities; identity++) {
    const name = dataset.identityName(identity);
    for (let photo = 0; photo < dataset.photos(identity); photo++) {
      try {
        const encoded = await dataset.encoded(identity, photo);
        const { labels } = encoded;
        if (size === undefined) {
          yield { identity: name, image: encoded.image, mask: encoded.mask, labels };
          continue;
        }
        const decoded = await decodeTrainingPhoto(encoded, size, { identity, photo });
        yield { identity: name, ...(await encodedSquare(decoded, size, encoding)), labels };
      } catch (error) {
        if (!isOfPhoto(error)) throw error;
        onUnreadable({ identity, photo, error });
      }
    }
  }
}
