import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { CachedDataset } from '../data/cached_dataset.js';
import type { IdentityDataset, TrainingPhoto } from '../data/dataset.js';
import { openDataset } from '../data/open_dataset.js';
import { heldOutSeed } from '../data/rendered.js';
import { RenderedDataset } from '../data/rendered_dataset.js';
import { DatasetError } from '../errors.js';
import type { HeldOutRecord } from '../io/held_out_record.js';
import type { TrainingConfig } from './config.js';
import { renderedShards, type RenderedShardsOptions } from './rendered_shards.js';
import { counted } from '../text.js';

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

/** What tells one data set from another: names of its identities, and how many photos each has. */
export interface DataFingerprint {
  readonly identities: number;
  readonly photos: number;
  readonly sha256: string;
}

/** The fingerprint of training's data; no photo is opened. */
export function fingerprintOf(dataset: IdentityDataset): DataFingerprint {
  const hash = createHash('sha256');
  let photos = 0;
  for (let identity = 0; identity < dataset.identities; identity++) {
    const count = dataset.photos(identity);
    hash.update(`${JSON.stringify(dataset.identityName(identity))} ${count}\n`);
    photos += count;
  }
  return { identities: dataset.identities, photos, sha256: hash.digest('hex') };
}

/** What a run trains on, and what it is tested on; they share no identity. */
export interface RunData {
  readonly training: IdentityDataset;
  readonly heldOut: IdentityDataset | undefined;
  /** Who is held out, to be told beside the model. */
  readonly record: HeldOutRecord;
  close(): Promise<void>;
}

export interface OpenRunDataOptions extends RenderedShardsOptions {
  readonly runFolder: string;
}

/** Bytes of held-out photos that are kept in memory. */
export const heldOutCacheBytes = 256 * 1024 * 1024;

type DataOf<Kind> = Extract<TrainingConfig['data'], { kind: Kind }>;

/**
 * Opens the data that a configuration names.
 * @throws {FileError} `ERR_FILE`, {DatasetError} `ERR_DATASET`, {FormatError} `ERR_FORMAT`; the signal's reason when aborted
 */
export async function openRunData(
  { data }: Pick<TrainingConfig, 'data'>,
  options: OpenRunDataOptions,
): Promise<RunData> {
  return data.kind === 'rendered' ? openRendered(data, options) : openStored(data);
}

async function openRendered(
  data: DataOf<'rendered'>,
  { runFolder, ...options }: OpenRunDataOptions,
): Promise<RunData> {
  const training = await renderedShards(data.cache ?? join(runFolder, 'data'), data, options);
  const close = (): Promise<void> => training.close();
  const { identities } = data.heldOut;
  const trained = { firstSeed: data.firstSeed, identities: data.identities };
  const { view } = data;
  const record = { kind: 'rendered', firstSeed: heldOutSeed, identities, trained, view } as const;
  if (identities === 0) return { training, heldOut: undefined, record, close };
  const people = new RenderedDataset({ identities, views: data.views, firstSeed: heldOutSeed, ...view });
  return { training, heldOut: new CachedDataset(people, heldOutCacheBytes), record, close };
}

async function openStored({ kind, path, heldOut }: DataOf<'folder' | 'shards'>): Promise<RunData> {
  const whole = await openDataset(path, kind);
  try {
    const { identities: count } = heldOut;
    const close = (): Promise<void> => whole.close();
    const ofAnotherDataset = heldOut.path !== undefined;
    if (count === 0) {
      const record: HeldOutRecord = { kind: 'stored', ofAnotherDataset, names: [] };
      return { training: whole, heldOut: undefined, record, close };
    }
    const cut = (from: IdentityDataset, first: number, identities: number) => {
      const names = Array.from({ length: identities }, (_, i) => from.identityName(first + i));
      const record: HeldOutRecord = { kind: 'stored', ofAnotherDataset, names };
      return {
        heldOut: new CachedDataset(new DatasetRange(from, first, identities), heldOutCacheBytes),
        record,
      };
    };
    if (heldOut.path !== undefined) {
      const other = await openDataset(heldOut.path);
      return {
        training: whole,
        ...cut(other, 0, Math.min(count, other.identities)),
        close: async () => {
          await Promise.all([whole.close(), other.close()]);
        },
      };
    }
    if (count >= whole.identities) {
      throw new DatasetError(
        `${whole.name} has ${counted(whole.identities, 'identity')}, of which data.heldOut.identities takes ${count}: none is left to train on`,
      );
    }
    const kept = whole.identities - count;
    return { training: new DatasetRange(whole, 0, kept), ...cut(whole, kept, count), close };
  } catch (error) {
    await whole.close();
    throw error;
  }
}
