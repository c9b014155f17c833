import { isOfPhoto, type UnreadablePhoto } from './check_dataset.js';
import type { EncodedDataset } from './dataset.js';
import { photoSize } from './training_photo.js';

/** What a data set holds. */
export interface DatasetSummary {
  readonly name: string;
  readonly identities: number;
  readonly photos: number;
  /** How many identities have that many photos, by number of photos. */
  readonly photosPerIdentity: readonly { readonly photos: number; readonly identities: number }[];
  /** Share of the photos that have a face mask. */
  readonly maskShare: number;
  /** How many photos have that size (of those looked at), the most frequent first. */
  readonly sizes: readonly { readonly width: number; readonly height: number; readonly photos: number }[];
  /** Photos whose size was looked at: spread evenly over the set. */
  readonly sizesOf: number;
  /** Photos that were to be looked at, and are no photos: told by their first bytes. Those that are damaged further on need decoding. */
  readonly brokenAtFirstSight: readonly UnreadablePhoto[];
}

/** Photos whose headers are read. */
const sizesAtMost = 1000;

/**
 * Counts what a data set holds. The sizes are those of at most 1000 photos, evenly spread.
 * @throws {FileError} `ERR_FILE`; the signal's reason
 */
export async function inspectDataset(dataset: EncodedDataset, signal?: AbortSignal): Promise<DatasetSummary> {
  const counts = new Map<number, number>();
  let photos = 0;
  let masks = 0;
  for (let identity = 0; identity < dataset.identities; identity++) {
    const count = dataset.photos(identity);
    counts.set(count, (counts.get(count) ?? 0) + 1);
    photos += count;
    for (let photo = 0; photo < count; photo++) if (dataset.hasMask(identity, photo)) masks++;
  }
  const stride = Math.ceil(photos / sizesAtMost);
  const sizes = new Map<string, { width: number; height: number; photos: number }>();
  let index = 0;
  let lookedAt = 0;
  const broken: UnreadablePhoto[] = [];
  for (let identity = 0; identity < dataset.identities; identity++) {
    for (let photo = 0; photo < dataset.photos(identity); photo++) {
      if (index++ % stride !== 0) continue;
      signal?.throwIfAborted();
      try {
        const { width, height } = await photoSize(await dataset.encoded(identity, photo), {
          identity,
          photo,
        });
        const key = `${width} ${height}`;
        const found = sizes.get(key) ?? { width, height, photos: 0 };
        sizes.set(key, found);
        found.photos++;
        lookedAt++;
      } catch (error) {
        if (!isOfPhoto(error)) throw error;
        broken.push({ identity, photo, error });
      }
    }
  }
  return {
    name: dataset.name,
    identities: dataset.identities,
    photos,
    photosPerIdentity: Array.from(counts, ([photos, identities]) => ({ photos, identities })).sort(
      (a, b) => a.photos - b.photos,
    ),
    maskShare: masks / photos,
    sizes: [...sizes.values()].sort((a, b) => b.photos - a.photos),
    sizesOf: lookedAt,
    brokenAtFirstSight: broken,
  };
}
