import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { native, type NativeWeights } from '../bindings.js';
import { OmniIdError } from '../errors.js';
import type { StoredTensor } from './checkpoint.js';
import { exists } from './files.js';
import { readSafetensorsHeader } from './safetensors.js';
import { writeSafetensors, type TensorSource } from './safetensors_writer.js';

/**
 * The packed cache: a model's weights as the kernels read them, beside the weights that they were made from. It is mapped at start, so that
 * loading neither converts nor copies, and several processes share its pages.
 *
 * It is a safetensors file of U8 tensors, aligned to 64 bytes, named by what they hold. It counts only when the engine's version, the layout, the
 * configuration and the source are those that it was made from. A source file is recognised by size and modification time; when those
 * differ (a copied folder, a touched file), by its SHA-256. Anything else makes the cache stale: it is ignored, and written anew where it can be.
 */

/** Where the cache of a folder lies. */
export function packedCachePath(folder: string, dtype: string): string {
  return join(folder, `model.packed-${dtype}.safetensors`);
}

interface SourceFile {
  readonly name: string;
  readonly bytes: number;
  readonly modifiedNs: string;
  readonly sha256: string;
}

async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 4 << 20 })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

function sourceFiles(tensors: ReadonlyMap<string, StoredTensor>): string[] {
  return [...new Set([...tensors.values()].map(({ file }) => file))].sort();
}

const fileName = (path: string): string => path.slice(path.lastIndexOf('/') + 1);

async function describeSource(path: string): Promise<SourceFile> {
  const { size, mtimeNs } = await stat(path, { bigint: true });
  return {
    name: fileName(path),
    bytes: Number(size),
    modifiedNs: String(mtimeNs),
    sha256: await sha256(path),
  };
}

async function isSame(path: string, recorded: SourceFile): Promise<boolean> {
  const { size, mtimeNs } = await stat(path, { bigint: true });
  if (Number(size) !== recorded.bytes || fileName(path) !== recorded.name) return false;
  return String(mtimeNs) === recorded.modifiedNs || (await sha256(path)) === recorded.sha256;
}

/** What of the engine and the model a cache depends on. */
function binding(config: unknown): { engine: string; layout: string; config: string } {
  return { engine: native().version, layout: native().packedLayout, config: JSON.stringify(config) };
}

/**
 * Maps a folder's packed cache into `weights`, if there is one and it is up to date.
 * @returns whether it was used, was not there, or is stale
 */
export async function mapPackedCache(
  path: string,
  weights: NativeWeights,
  config: unknown,
  source: ReadonlyMap<string, StoredTensor>,
): Promise<'used' | 'absent' | 'stale'> {
  if (!(await exists(path))) return 'absent';
  try {
    const { tensors, metadata } = await readSafetensorsHeader(path);
    for (const [key, value] of Object.entries(binding(config)))
      if (metadata.get(key) !== value) return 'stale';
    const recorded = JSON.parse(metadata.get('sources') ?? '[]') as SourceFile[];
    const files = sourceFiles(source);
    if (files.length !== recorded.length) return 'stale';
    for (const file of files) {
      const known = recorded.find(({ name }) => name === fileName(file));
      if (!known || !(await isSame(file, known))) return 'stale';
    }
    // All or nothing: what could not be mapped must not be found after the first tensors have been.
    if ([...tensors.values()].some(({ byteOffset }) => byteOffset % 64 !== 0)) return 'stale';
    const mapped = new (native().MappedFile)(path);
    for (const [key, { byteOffset, byteLength }] of tensors)
      weights.setPacked(key, mapped, byteOffset, byteLength);
    mapped.close();
    return 'used';
  } catch (error) {
    // A damaged cache is a stale one: everything in it can be made again.
    if (error instanceof OmniIdError || error instanceof SyntaxError) return 'stale';
    throw error;
  }
}

/**
 * Writes what the plans of a model have packed so far, atomically. Peak memory: 16 MiB.
 * @throws {FileError} `ERR_FILE` when the folder cannot be written
 */
export async function writePackedCache(
  path: string,
  weights: NativeWeights,
  config: unknown,
  source: ReadonlyMap<string, StoredTensor>,
  options: {
    signal?: AbortSignal | undefined;
    onProgress?:
      ((progress: { readonly bytesDone: number; readonly bytesTotal: number }) => void) | undefined;
  } = {},
): Promise<void> {
  const sources = await Promise.all(sourceFiles(source).map(describeSource));
  const tensors = weights.packed().map(({ key, byteLength }): TensorSource => {
    // Every tensor begins at a multiple of 64 bytes when every length is one.
    const padded = Math.ceil(byteLength / 64) * 64;
    return {
      name: key,
      dtype: 'U8',
      shape: [padded],
      byteLength: padded,
      read: (first, count) => {
        const piece = new Uint8Array(count);
        piece.set(weights.readPacked(key, first, Math.min(count, byteLength - first)));
        return piece;
      },
    };
  });
  const metadata = { ...binding(config), sources: JSON.stringify(sources) };
  await writeSafetensors(path, tensors, { ...options, metadata, alignment: 64 });
}
