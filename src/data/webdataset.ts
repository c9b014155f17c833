import { open, readdir, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { ArgumentError, DatasetError, DisposedError, FileError, FormatError, ImageError, messageOf } from '../errors.js'; // prettier-ignore
import { readSlice } from '../io/tar.js';
import type { EncodedDataset, EncodedImage, EncodedPhoto, TrainingPhoto } from './dataset.js';
import { describePhoto } from './photo.js';
import { naturalOrder } from './photo_files.js';
import { readPhotoFile } from './read_file.js';
import { checkShardSize, readIndex, scanShard, type Shard, type ShardSample } from './shard_index.js';
import { decodeTrainingPhoto } from './training_photo.js';

interface ShardPhoto {
  readonly shard: number;
  readonly sample: ShardSample;
}

interface OpenShard {
  readonly path: string;
  readonly file: FileHandle;
}

/** A gap that is read along rather than skipped by a second read: a header and padding. */
const smallGap = 4096;

/** Names of the shards in a folder, in natural order. @throws {FileError} `ERR_FILE` */
export async function shardNames(folder: string): Promise<string[]> {
  const names = await readdir(folder).catch((error: unknown) => {
    throw new FileError(`cannot read ${folder}: ${messageOf(error)}`, { cause: error });
  });
  return names.filter((name) => name.endsWith('.tar') && !name.startsWith('.')).sort(naturalOrder);
}

/**
 * WebDataset shards: tar archives in a folder, with an `index.json` beside them or without (they are then read through once, headers
 * only). Photos are read at random, each with one or two reads. Identities are in the order of their first photo.
 */
export class ShardDataset implements EncodedDataset {
  private constructor(
    readonly name: string,
    private shards: readonly OpenShard[],
    private readonly names: readonly string[],
    private readonly people: readonly (readonly ShardPhoto[])[],
  ) {}

  /**
   * @throws {DatasetError} `ERR_DATASET` when there are no shards or photos, or a shard is damaged, cut off, or not that of the index; {FileError} `ERR_FILE`
   */
  static async open(folder: string): Promise<ShardDataset> {
    const indexed = new Map((await readIndex(folder))?.map((shard) => [shard.name, shard]));
    const names = await shardNames(folder);
    for (const name of indexed.keys()) {
      if (!names.includes(name)) throw new DatasetError(`${folder}: the shard ${name} is not there`);
    }
    const shards: OpenShard[] = [];
    try {
      const people = new Map<string, ShardPhoto[]>();
      for (const name of names) {
        const path = join(folder, name);
        const file = await open(path, 'r').catch((error: unknown) => {
          throw new FileError(`cannot read ${path}: ${messageOf(error)}`, { cause: error });
        });
        shards.push({ path, file });
        for (const sample of await samplesOf(folder, path, file, indexed.get(name))) {
          const photos = people.get(sample.identity);
          const photo = { shard: shards.length - 1, sample };
          if (photos) photos.push(photo);
          else people.set(sample.identity, [photo]);
        }
      }
      if (people.size === 0) throw new DatasetError(`${folder}: no photos, expected .tar shards with photos`);
      return new ShardDataset(folder, shards, [...people.keys()], [...people.values()]);
    } catch (error) {
      for (const { file } of shards) await file.close();
      throw error;
    }
  }

  get identities(): number {
    return this.people.length;
  }

  photos(identity: number): number {
    return this.#identity(identity).length;
  }

  identityName(identity: number): string {
    this.#identity(identity);
    return this.names[identity] ?? '';
  }

  hasMask(identity: number, photo: number): boolean {
    return this.#photo(identity, photo).sample.mask !== null;
  }

  async encoded(identity: number, photo: number): Promise<EncodedPhoto> {
    const { shard, sample } = this.#photo(identity, photo);
    const { image, mask } = await this.#images(identity, photo);
    const json = sample.labels && (await this.#slice(identity, photo, sample.labels[1], sample.labels[2]));
    let labels: Record<string, unknown> = {};
    if (json) {
      try {
        labels = JSON.parse(json.toString('utf8')) as Record<string, unknown>;
      } catch (cause) {
        const name = `${this.shards[shard]?.path}:${sample.key}.json`;
        throw new DatasetError(`${name} is not JSON (${messageOf(cause)})`, { cause });
      }
    }
    return { image, mask, labels };
  }

  async read(identity: number, photo: number, size: number): Promise<TrainingPhoto> {
    const images = await this.#images(identity, photo);
    return decodeTrainingPhoto({ ...images, labels: {} }, size, { identity, photo });
  }

  async close(): Promise<void> {
    const { shards } = this;
    this.shards = [];
    for (const { file } of shards) await file.close();
  }

  /** The photo and its mask, with one read where they lie side by side. */
  async #images(identity: number, photo: number): Promise<Omit<EncodedPhoto, 'labels'>> {
    const { shard, sample } = this.#photo(identity, photo);
    const named = ([ending]: readonly [string, number, number], bytes: Uint8Array): EncodedImage => ({
      name: `${this.shards[shard]?.path}:${sample.key}.${ending}`,
      extension: ending.slice(ending.lastIndexOf('.') + 1),
      bytes,
    });
    const { image, mask } = sample;
    const [, offset, bytes] = image;
    if (mask && mask[1] >= offset + bytes && mask[1] - offset - bytes <= smallGap) {
      const both = await this.#slice(identity, photo, offset, mask[1] + mask[2] - offset);
      return {
        image: named(image, both.subarray(0, bytes)),
        mask: named(mask, both.subarray(mask[1] - offset)),
      };
    }
    return {
      image: named(image, await this.#slice(identity, photo, offset, bytes)),
      mask: mask ? named(mask, await this.#slice(identity, photo, mask[1], mask[2])) : undefined,
    };
  }

  async #slice(identity: number, photo: number, offset: number, bytes: number): Promise<Buffer> {
    const { shard, sample } = this.#photo(identity, photo);
    const opened = this.shards[shard];
    // Not the photo's fault: whoever leaves out photos that cannot be read must not leave out this one.
    if (!opened) throw new DisposedError(`the data set ${this.name} is closed`);
    try {
      return await readPhotoFile(`${opened.path}:${sample.key}`, () => readSlice(opened.file, offset, bytes));
    } catch (cause) {
      if (cause instanceof FileError) throw cause;
      const position = { identity, photo };
      throw new ImageError(
        'ERR_IMAGE_UNREADABLE',
        `${describePhoto(`${opened.path}:${sample.key}`, position)}: ${messageOf(cause)}`,
        { cause, ...position },
      );
    }
  }

  #identity(identity: number): readonly ShardPhoto[] {
    const found = this.people[identity];
    if (!found) throw new ArgumentError(`identity ${identity} of ${this.name}, which has ${this.identities}`);
    return found;
  }

  #photo(identity: number, photo: number): ShardPhoto {
    const photos = this.#identity(identity);
    const found = photos[photo];
    if (!found) {
      throw new ArgumentError(
        `photo ${photo} of identity ${identity} of ${this.name}, which has ${photos.length}`,
      );
    }
    return found;
  }
}

/** The samples of a shard: from its index, or else read from it. */
async function samplesOf(
  folder: string,
  path: string,
  file: FileHandle,
  indexed: Shard | undefined,
): Promise<readonly ShardSample[]> {
  if (indexed) {
    await checkShardSize(folder, indexed);
    return indexed.samples;
  }
  try {
    return await scanShard(file, path);
  } catch (error) {
    if (error instanceof DatasetError || error instanceof FormatError) throw error;
    throw new FileError(`cannot read ${path}: ${messageOf(error)}`, { cause: error });
  }
}
