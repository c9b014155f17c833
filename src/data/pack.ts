import { isOfPhoto, type UnreadablePhoto } from './check_dataset.js';
import type { EncodedDataset } from './dataset.js';
import { encodedMask, encodedPhoto, type PhotoEncoding } from './encode_square.js';
import type { PackedPhoto } from './shard_writer.js';
import { decodeTrainingPhoto } from './training_photo.js';

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
        const { pixels, mask } = await decodeTrainingPhoto(encoded, size, { identity, photo });
        yield {
          identity: name,
          image: await encodedPhoto(pixels, size, encoding),
          mask: mask && (await encodedMask(mask, size, encoding)),
          labels,
        };
      } catch (error) {
        if (!isOfPhoto(error)) throw error;
        onUnreadable({ identity, photo, error });
      }
    }
  }
}
