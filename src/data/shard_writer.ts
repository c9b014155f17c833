import { readdir, rm, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { DatasetError, FileError, messageOf } from '../errors.js';
import { writeFileAtomically } from '../io/atomic_file.js';
import { makeFolder } from '../io/files.js';
import { tarEnd, tarHeader, tarPadding } from '../io/tar.js';
import type { EncodedImage } from './dataset.js';
import { indexName, indexText, type Shard, type ShardFile, type ShardSample } from './shard_index.js';

/** A photo to be packed. */
export interface PackedPhoto {
  readonly identity: string;
  readonly image: Omit<EncodedImage, 'name'>;
  readonly mask?: Omit<EncodedImage, 'name'> | undefined;
  /** Written to the sample's JSON, beside `identity`. */
  readonly labels?: Readonly<Record<string, unknown>> | undefined;
}

export interface ShardOptions {
  /** Bytes at which a shard ends. Default: 1 GiB. */
  readonly shardBytes?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called after every photo. */
  readonly onPhoto?: ((photos: number) => void) | undefined;
}

export interface WrittenShards {
  readonly shards: readonly string[];
  readonly identities: number;
  readonly photos: number;
  readonly bytes: number;
}

const defaultShardBytes = 1024 ** 3;
/** Photos of one data set: its index, some 150 bytes a photo, is one text, of which V8 allows 512 MB, and is read as a whole. */
export const mostPackedPhotos = 2_000_000;

/** @throws {DatasetError} `ERR_DATASET` for more photos than the index of shards can hold; found out before hours of work */
export function checkPackedPhotos(photos: number): void {
  if (photos <= mostPackedPhotos) return;
  throw new DatasetError(
    `${photos} photos are too many for one data set of shards: expected at most ${mostPackedPhotos} (their index is read as one text)`,
  );
}
/** Bytes that are written at a time. */
const pieceBytes = 1024 * 1024;

/** A folder name in an archive for an identity's name, which may be any text. */
function folderName(identity: string): string {
  const parts = identity
    // eslint-disable-next-line no-control-regex
    .replace(/[\x00-\x1f\x7f]/g, '_')
    .split('/')
    .filter((part) => part !== '');
  return parts.map((part) => (part === '.' || part === '..' ? '_' : part)).join('/') || '_';
}

/** Photos that are given out one after another, the next of which can be looked at. */
class Upcoming {
  #next: PackedPhoto | undefined;

  private constructor(private readonly photos: AsyncIterator<PackedPhoto>) {}

  static async of(photos: AsyncIterable<PackedPhoto>): Promise<Upcoming> {
    const upcoming = new Upcoming(photos[Symbol.asyncIterator]());
    await upcoming.advance();
    return upcoming;
  }

  peek(): PackedPhoto | undefined {
    return this.#next;
  }

  async advance(): Promise<void> {
    const result = await this.photos.next();
    this.#next = result.done === true ? undefined : result.value;
  }

  async stop(): Promise<void> {
    await this.photos.return?.();
  }
}

/** The files of a sample, in the order in which they are written. */
function filesOf(photo: PackedPhoto): [ending: string, content: Uint8Array][] {
  const { identity, image, mask, labels } = photo;
  const json = Buffer.from(JSON.stringify({ ...labels, identity }));
  const files: [string, Uint8Array][] = [[image.extension, image.bytes]];
  // Beside the photo: both are read at once.
  if (mask) files.push([`mask.${mask.extension}`, mask.bytes]);
  files.push(['json', json]);
  return files;
}

/** Writes an archive in large pieces and counts its bytes. */
class ShardFileWriter {
  bytes = 0;
  #waiting: Uint8Array[] = [];
  #waitingBytes = 0;

  constructor(private readonly file: FileHandle) {}

  async add(...pieces: readonly Uint8Array[]): Promise<void> {
    for (const piece of pieces) {
      this.#waiting.push(piece);
      this.#waitingBytes += piece.byteLength;
      this.bytes += piece.byteLength;
    }
    if (this.#waitingBytes >= pieceBytes) await this.flush();
  }

  async flush(): Promise<void> {
    const pieces = Buffer.concat(this.#waiting);
    this.#waiting = [];
    this.#waitingBytes = 0;
    let done = 0;
    while (done < pieces.length) done += (await this.file.write(pieces, done)).bytesWritten;
  }
}

/** Writes the next photos to one shard. */
async function writeShard(
  file: FileHandle,
  upcoming: Upcoming,
  numbers: Map<string, number>,
  shardBytes: number,
  signal: AbortSignal | undefined,
  onPhoto: () => void,
): Promise<{ bytes: number; samples: ShardSample[] }> {
  const writer = new ShardFileWriter(file);
  const samples: ShardSample[] = [];
  for (let photo = upcoming.peek(); photo; photo = upcoming.peek()) {
    signal?.throwIfAborted();
    const files = filesOf(photo);
    const content = files.reduce((sum, [, bytes]) => sum + bytes.byteLength, 0);
    if (samples.length > 0 && writer.bytes + content > shardBytes) break;
    const { identity } = photo;
    const folder = folderName(identity);
    const number = numbers.get(folder) ?? 0;
    numbers.set(folder, number + 1);
    const key = `${folder}/${String(number).padStart(4, '0')}`;
    const written: ShardFile[] = [];
    for (const [ending, bytes] of files) {
      await writer.add(tarHeader(`${key}.${ending}`, bytes.byteLength));
      written.push([ending, writer.bytes, bytes.byteLength]);
      await writer.add(bytes, tarPadding(bytes.byteLength));
    }
    const [image, second] = written as [ShardFile, ShardFile];
    const labels = written.at(-1) ?? null;
    samples.push({ key, identity, image, mask: photo.mask ? second : null, labels });
    onPhoto();
    await upcoming.advance();
  }
  await writer.add(tarEnd);
  await writer.flush();
  return { bytes: writer.bytes, samples };
}

/** Throws unless the folder can take a data set: made when it is not there, and without another one's shards. */
async function prepareFolder(folder: string): Promise<void> {
  await makeFolder(folder);
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (error) {
    throw new FileError(`cannot write to ${folder}: ${messageOf(error)}`, { cause: error });
  }
  const there = names.find((name) => name.endsWith('.tar') || name === indexName);
  if (there !== undefined) {
    throw new FileError(`${folder} already holds ${there}: expected a folder without shards`);
  }
}

/**
 * Writes photos to WebDataset shards `train-000000.tar`, …, and an index beside them. The photos of an identity need not follow each other. The
 * same photos give the same bytes. Peak memory: a few photos, and what the index takes.
 * @returns what was written
 * @throws {DatasetError} `ERR_DATASET` when there are no photos; {FileError} `ERR_FILE`; the signal's reason; what `photos` throws. The shards that were
 * written are removed then.
 */
export async function writeShards(
  folder: string,
  photos: AsyncIterable<PackedPhoto>,
  { shardBytes = defaultShardBytes, signal, onPhoto }: ShardOptions = {},
): Promise<WrittenShards> {
  await prepareFolder(folder);
  const shards: Shard[] = [];
  const numbers = new Map<string, number>();
  const identities = new Set<string>();
  let count = 0;
  const upcoming = await Upcoming.of(photos);
  try {
    if (!upcoming.peek()) throw new DatasetError(`no photos to write to ${folder}`);
    while (upcoming.peek()) {
      const name = `train-${String(shards.length).padStart(6, '0')}.tar`;
      await writeFileAtomically(join(folder, name), async (file) => {
        const shard = await writeShard(file, upcoming, numbers, shardBytes, signal, () => {
          checkPackedPhotos(++count);
          onPhoto?.(count);
        });
        for (const { identity } of shard.samples) identities.add(identity);
        shards.push({ name, ...shard });
      });
    }
    await writeFileAtomically(join(folder, indexName), (file) => file.writeFile(indexText(shards)));
  } catch (error) {
    await upcoming.stop();
    for (const { name } of shards) await rm(join(folder, name), { force: true });
    throw error;
  }
  return {
    shards: shards.map(({ name }) => name),
    identities: identities.size,
    photos: count,
    bytes: shards.reduce((sum, { bytes }) => sum + bytes, 0),
  };
}
