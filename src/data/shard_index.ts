import { readFile, stat, type FileHandle } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { DatasetError, FileError, FormatError, messageOf, shortened } from '../errors.js';
import { tarFiles } from '../io/tar.js';
import { photoEndings } from './photo_files.js';

/**
 * Where every photo of a shard lies. A shard is a tar archive by WebDataset's convention: files that share all of their path up to the first
 * dot of the file's name (the key) are one sample. Of a sample, `KEY.jpg` (or another photo, or `KEY.npy` with decoded pixels) is the photo,
 * `KEY.mask.png` (or `KEY.mask.npy`) the face mask, and `KEY.json` what else is known.
 * The identity is the field `identity` of the JSON, or the content of `KEY.cls`, or the folder of the key.
 */
export interface ShardSample {
  readonly key: string;
  readonly identity: string;
  readonly image: ShardFile;
  readonly mask: ShardFile | null;
  readonly labels: ShardFile | null;
}

/** A file in a shard: what follows the key and a dot, the first byte in the shard, bytes. */
export type ShardFile = readonly [ending: string, offset: number, bytes: number];

export interface Shard {
  /** The file's name. */
  readonly name: string;
  /** Of the whole file: tells whether the index is that of this shard. */
  readonly bytes: number;
  readonly samples: readonly ShardSample[];
}

/** The file beside the shards that tells where their samples lie. */
export const indexName = 'index.json';

const whole = z.number().int().min(0);
const shardFile = z.tuple([z.string(), whole, whole]);
const schema = z.object({
  version: z.literal(1),
  shards: z.array(
    z.object({
      name: z.string(),
      bytes: whole,
      samples: z.array(
        z.object({
          key: z.string(),
          identity: z.string(),
          image: shardFile,
          mask: shardFile.nullable(),
          labels: shardFile.nullable(),
        }),
      ),
    }),
  ),
});

export function indexText(shards: readonly Shard[]): string {
  return `${JSON.stringify({ version: 1, shards })}\n`;
}

/** The index in a folder, or nothing. @throws {FileError} `ERR_FILE`; {DatasetError} `ERR_DATASET` when it is none */
export async function readIndex(folder: string): Promise<readonly Shard[] | undefined> {
  const path = join(folder, indexName);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw new FileError(`cannot read ${path}: ${messageOf(error)}`, { cause: error });
  }
  try {
    const { shards } = schema.parse(JSON.parse(text));
    for (const { name, bytes, samples } of shards) {
      if (name !== basename(name) || name === '..') throw new Error(`${name} is not the name of a file`);
      for (const { key, image, mask, labels } of samples) {
        for (const file of [image, mask, labels])
          if (file && file[1] + file[2] > bytes) throw new Error(`${key} ends after ${name} does`);
      }
    }
    return shards;
  } catch (error) {
    const why = error instanceof z.ZodError ? z.prettifyError(error) : messageOf(error);
    throw new DatasetError(
      `${path} is not an index of shards: ${shortened(why)}; without it the shards are read instead`,
      { cause: error },
    );
  }
}

/** @throws {DatasetError} `ERR_DATASET` when a shard is not that of its index */
export async function checkShardSize(folder: string, { name, bytes }: Shard): Promise<void> {
  const path = join(folder, name);
  const { size } = await stat(path).catch((error: unknown) => {
    throw new FileError(`cannot read ${path}: ${messageOf(error)}`, { cause: error });
  });
  if (size === bytes) return;
  throw new DatasetError(
    `${path} has ${size} bytes, expected the ${bytes} of ${indexName}: it was cut off or replaced; ` +
      `without ${indexName} the shards are read instead`,
  );
}

/** Files of one key. */
interface Gathered {
  key: string;
  image?: ShardFile;
  mask?: ShardFile;
  labels?: ShardFile;
  identity?: string;
}

/** What a JSON file says of the identity. */
function identityIn(json: Buffer, name: string): string | undefined {
  let value: unknown;
  try {
    value = JSON.parse(json.toString('utf8'));
  } catch (error) {
    throw new DatasetError(`${name} is not JSON (${messageOf(error)})`, { cause: error });
  }
  const identity = typeof value === 'object' && value !== null && 'identity' in value && value.identity;
  return typeof identity === 'string' || typeof identity === 'number' ? String(identity) : undefined;
}

/** The folder of a key. */
function folderOf(key: string, name: string): string {
  const slash = key.lastIndexOf('/');
  if (slash > 0) return key.slice(0, slash);
  throw new DatasetError(
    `${name}: the sample ${shortened(key)} is of no identity: expected a key IDENTITY/NAME, a field "identity" in its .json, or a .cls`,
  );
}

const endings = new Set(['npy', ...Array.from(photoEndings, (ending) => ending.slice(1))]);
/** A .json or .cls in a shard. */
const longestLabels = 1024 * 1024;

/**
 * Reads a shard that has no index. Samples without a photo are left out.
 * @param name for messages
 * @throws {DatasetError} `ERR_DATASET` when it is damaged, cut off, or has a photo of no identity
 */
export async function scanShard(file: FileHandle, name: string): Promise<ShardSample[]> {
  const gathered = new Map<string, Gathered>();
  try {
    for await (const entry of tarFiles(file, name)) {
      const { path, offset, bytes } = entry;
      // Archives of a whole folder begin every path with ./
      const match = /^(?:\.\/)?((?:.*\/)?[^./][^/.]*)\.([^/]+)$/s.exec(path);
      const [, key, written] = match ?? [];
      if (key === undefined || written === undefined) continue;
      const ending = written.toLowerCase();
      const sample = gathered.get(key) ?? { key };
      gathered.set(key, sample);
      const found: ShardFile = [ending, offset, bytes];
      if (endings.has(ending)) sample.image ??= found;
      else if (ending === 'mask.png' || ending === 'mask.npy') sample.mask = found;
      else if ((ending === 'json' || ending === 'cls') && bytes <= longestLabels) {
        const content = await entry.read();
        if (ending === 'json') {
          sample.labels = found;
          const identity = identityIn(content, `${name}:${path}`);
          if (identity !== undefined) sample.identity = identity;
        } else {
          sample.identity ??= content.toString('utf8').trim();
        }
      }
    }
  } catch (error) {
    if (error instanceof FormatError) throw new DatasetError(error.message, { cause: error });
    throw error;
  }
  const samples: ShardSample[] = [];
  for (const { key, image, mask, labels, identity } of gathered.values()) {
    if (!image) continue;
    samples.push({
      key,
      identity: identity ?? folderOf(key, name),
      image,
      mask: mask ?? null,
      labels: labels ?? null,
    });
  }
  return samples;
}
