import { join } from 'node:path';
import { CachedDataset } from '../data/cached_dataset.js';
import type { IdentityDataset, TrainingPhoto } from '../data/dataset.js';
import { openDataset } from '../data/open_dataset.js';
import { heldOutSeed } from '../data/rendered.js';
import { RenderedDataset } from '../data/rendered_dataset.js';
import { writeShards, type PackedPhoto } from '../data/shard_writer.js';
import { DatasetError } from '../errors.js';
import { exists } from '../io/files.js';
import { bytesToNpy } from '../io/npy.js';
import type { TrainingConfig } from './config.js';

/** Identities [first, first + count) of a data set. */
export class DatasetRange implements IdentityDataset {
  constructor(
    private readonly dataset: IdentityDataset,
    private readonly first: number,
    readonly identities: number,
  ) {}

  get name(): string {
    return this.dataset.name;
  }

  photos(identity: number): number {
    return this.dataset.photos(this.first + identity);
  }

  identityName(identity: number): string {
    return this.dataset.identityName(this.first + identity);
  }

  read(identity: number, photo: number, size: number): Promise<TrainingPhoto> {
    return this.dataset.read(this.first + identity, photo, size);
  }

  /** The whole data set's. */
  close(): Promise<void> {
    return this.dataset.close();
  }
}

/** What a run trains on, and what it is tested on; they share no identity. */
export interface RunData {
  readonly training: IdentityDataset;
  readonly heldOut: IdentityDataset | undefined;
  close(): Promise<void>;
}

export interface OpenRunDataOptions {
  readonly runFolder: string;
  readonly signal: AbortSignal;
  /** Told how rendering goes, when a rendered data set is not there yet. */
  readonly onRender?: ((done: number, total: number) => void) | undefined;
}

/** Bytes of held-out photos that are kept in memory. */
const heldOutBytes = 256 * 1024 * 1024;

async function* decodedPhotos(
  dataset: RenderedDataset,
  views: number,
  size: number,
  signal: AbortSignal,
): AsyncGenerator<PackedPhoto> {
  // Some ahead, so that all of the renderer's threads work while one photo is written.
  const ahead = 16;
  const total = dataset.identities * views;
  const upcoming: Promise<PackedPhoto>[] = [];
  const start = (index: number): void => {
    const identity = Math.floor(index / views);
    const photo = dataset.read(identity, index % views, size).then(({ pixels, mask }): PackedPhoto => ({
      identity: dataset.identityName(identity),
      image: { extension: 'npy', bytes: bytesToNpy(pixels, [size, size, 3]) },
      mask: mask && { extension: 'npy', bytes: bytesToNpy(mask, [size, size]) },
    }));
    photo.catch(() => undefined); // met when its turn comes
    upcoming.push(photo);
  };
  for (let index = 0; index < total; index++) {
    signal.throwIfAborted();
    while (upcoming.length < ahead && index + upcoming.length < total) start(index + upcoming.length);
    const next = upcoming.shift();
    if (next) yield await next;
  }
}

/** Rendered people as shards of decoded photos: drawn once, then read at next to no cost. */
async function renderedShards(
  data: Extract<TrainingConfig['data'], { kind: 'rendered' }>,
  { runFolder, signal, onRender }: OpenRunDataOptions,
): Promise<IdentityDataset> {
  const { identities, views, firstSeed, size } = data;
  const folder = join(data.cache ?? join(runFolder, 'data'), `${firstSeed}-${identities}x${views}-${size}px`);
  if (!(await exists(folder))) {
    const dataset = new RenderedDataset({ identities, views, firstSeed });
    const photos = decodedPhotos(dataset, views, size, signal);
    await writeShards(folder, photos, {
      signal,
      onPhoto: (done) => onRender?.(done, identities * views),
    });
  }
  return openDataset(folder);
}

/**
 * Opens the data that a configuration names.
 * @throws {FileError} `ERR_FILE`, {DatasetError} `ERR_DATASET`, {FormatError} `ERR_FORMAT`; the signal's reason when aborted
 */
export async function openRunData(config: TrainingConfig, options: OpenRunDataOptions): Promise<RunData> {
  const { data } = config;
  if (data.kind === 'rendered') {
    const training = await renderedShards(data, options);
    const count = data.heldOut.identities;
    // By convention people from this seed on are never trained on.
    const heldOut =
      count > 0
        ? new CachedDataset(
            new RenderedDataset({ identities: count, views: data.views, firstSeed: heldOutSeed }),
            heldOutBytes,
          )
        : undefined;
    return { training, heldOut, close: () => training.close() };
  }
  const whole = await openDataset(data.path);
  const { identities: count, path } = data.heldOut;
  if (count === 0) return { training: whole, heldOut: undefined, close: () => whole.close() };
  if (path !== undefined) {
    const other = await openDataset(path);
    const heldOut = new DatasetRange(other, 0, Math.min(count, other.identities));
    const close = async (): Promise<void> => {
      await Promise.all([whole.close(), other.close()]);
    };
    return { training: whole, heldOut: new CachedDataset(heldOut, heldOutBytes), close };
  }
  if (count >= whole.identities) {
    await whole.close();
    throw new DatasetError(
      `${whole.name} has ${whole.identities} identities, of which ${count} are held out (data.heldOut.identities): none is left to train on`,
    );
  }
  const kept = whole.identities - count;
  return {
    training: new DatasetRange(whole, 0, kept),
    heldOut: new CachedDataset(new DatasetRange(whole, kept, count), heldOutBytes),
    close: () => whole.close(),
  };
}
