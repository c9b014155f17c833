import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { native, type NativeWeights } from '../bindings.js';
import { FileError, messageOf, OmniIdError } from '../errors.js';
import type { StoredTensor } from './checkpoint.js';
import { exists, fileState, isSameState, type FileState } from './files.js';
import { readSafetensorsHeader } from './safetensors.js';
import { writeSafetensors, type TensorSource } from './safetensors_writer.js';

/**
 * The packed cache: a model's weights as the kernels read them, beside the weights that they were made from. It is mapped at start, so that
 * loading neither converts nor copies, and several processes share its pages.
 *
 * It is a safetensors file of U8 tensors, aligned to 64 bytes, named by what they hold. It counts only when the engine's version, the layout, the
 * configuration and the source are those that it was made from. A source file is the same when its inode, size, time of modification and time of
 * change all are: only then is it not read. Size and modification time alone are not enough, as they can be set (`cp -p`, `rsync -t`,
 * `touch -r`). When one of them differs (a copied folder, a touched file), the file's SHA-256 decides. Anything else makes the cache stale:
 * it is ignored, and written anew where it can be.
 *
 * The states of the source files are taken before anything of them is read. When a file has been replaced since, what was mapped and what lies
 * there now may be different weights: no cache is used, and none is written.
 */

/** Where the cache of a folder lies. */
export function packedCachePath(folder: string, dtype: string): string {
  return join(folder, `model.packed-${dtype}.safetensors`);
}

const sourceFile = z.object({
  name: z.string(),
  inode: z.string(),
  bytes: z.string(),
  modifiedNs: z.string(),
  changedNs: z.string(),
  sha256: z.string(),
});

async function sha256(path: string, signal: AbortSignal | undefined): Promise<string> {
  const hash = createHash('sha256');
  try {
    const chunks = createReadStream(path, { highWaterMark: 4 << 20, signal });
    for await (const chunk of chunks) hash.update(chunk as Buffer);
  } catch (error) {
    signal?.throwIfAborted();
    throw new FileError(`cannot read ${path}: ${messageOf(error)}`, { cause: error });
  }
  return hash.digest('hex');
}

/** The files that tensors lie in, and their states before they were read. */
function sourceFiles(tensors: ReadonlyMap<string, StoredTensor>): [path: string, state: FileState][] {
  const files = new Map([...tensors.values()].map(({ file, fileState: state }) => [file, state]));
  return [...files].sort(([a], [b]) => (a < b ? -1 : 1));
}

async function isSame(
  path: string,
  state: FileState,
  recorded: z.output<typeof sourceFile>,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const same =
    isSameState(state, recorded) ||
    (state.bytes === recorded.bytes && (await sha256(path, signal)) === recorded.sha256);
  return same && isSameState(state, await fileState(path));
}

/** What of the engine and the model a cache depends on. */
function binding(config: unknown): { engine: string; layout: string; config: string } {
  return { engine: native().version, layout: native().packedLayout, config: JSON.stringify(config) };
}

/**
 * Maps a folder's packed cache into `weights`, if there is one and it is up to date. `weights` have the source mapped.
 * @returns whether it was used, was not there, or is stale
 */
export async function mapPackedCache(
  path: string,
  weights: NativeWeights,
  config: unknown,
  source: ReadonlyMap<string, StoredTensor>,
  signal?: AbortSignal,
): Promise<'used' | 'absent' | 'stale'> {
  if (!(await exists(path))) return 'absent';
  try {
    const { tensors, metadata } = await readSafetensorsHeader(path);
    for (const [key, value] of Object.entries(binding(config)))
      if (metadata.get(key) !== value) return 'stale';
    const sources = z.array(sourceFile).safeParse(JSON.parse(metadata.get('sources') ?? '[]'));
    if (!sources.success) return 'stale';
    const recorded = sources.data;
    const files = sourceFiles(source);
    if (files.length !== recorded.length) return 'stale';
    for (const [file, state] of files) {
      const known = recorded.find(({ name }) => name === basename(file));
      if (!known || !(await isSame(file, state, known, signal))) return 'stale';
    }
    // All or nothing: what could not be mapped must not be found after the first tensors have been.
    if ([...tensors.values()].some(({ byteOffset }) => byteOffset % 64 !== 0)) return 'stale';
    const mapped = new (native().MappedFile)(path);
    for (const [key, { byteOffset, byteLength }] of tensors)
      weights.setPacked(key, mapped, byteOffset, byteLength);
    mapped.close();
    return 'used';
  } catch (error) {
    signal?.throwIfAborted();
    // A damaged cache is a stale one: everything in it can be made again.
    if (error instanceof OmniIdError || error instanceof SyntaxError) return 'stale';
    throw error;
  }
}

/**
 * Writes what the plans of a model have packed so far, atomically. Peak memory: 16 MiB.
 * @throws {FileError} `ERR_FILE` when the folder cannot be written, or a source file has changed since the checkpoint was opened; the
 *   signal's reason when aborted
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
  const sources = await Promise.all(
    sourceFiles(source).map(async ([file, state]) => {
      const hash = await sha256(file, options.signal);
      if (!isSameState(state, await fileState(file))) {
        throw new FileError(`${file} was changed while it was read: no packed cache can be made of it`);
      }
      return { name: basename(file), ...state, sha256: hash };
    }),
  );
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
