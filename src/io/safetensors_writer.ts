import type { FileHandle } from 'node:fs/promises';
import { writeFileAtomically } from './atomic_file.js';
import type { SafetensorsDType } from './safetensors.js';

/** A tensor to be written: its bytes are asked for in pieces, so that no second copy of a model is ever in memory. */
export interface TensorSource {
  readonly name: string;
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  readonly byteLength: number;
  /** Bytes [first, first + count) of the tensor. */
  read(first: number, count: number): Uint8Array | Promise<Uint8Array>;
}

/** Bytes asked for at a time: the peak memory of writing. A multiple of every element size. */
export const pieceBytes = 16 * 1024 * 1024;

async function writeFully(file: FileHandle, bytes: Uint8Array): Promise<void> {
  let done = 0;
  while (done < bytes.byteLength) done += (await file.write(bytes, done)).bytesWritten;
}

/**
 * Writes a safetensors file, atomically. The header is padded with spaces so that the data begins at a multiple of `alignment`.
 *
 * @param options.alignment bytes; 8 is what the reference implementation uses
 * @param options.onProgress called after every piece of 16 MiB
 * @param options.onBytes given all bytes of the file, in order, as they are written: for checksums
 * @throws {FileError} `ERR_FILE`; the signal's reason when it is aborted. Nothing is left behind then.
 */
export async function writeSafetensors(
  path: string,
  tensors: readonly TensorSource[],
  options: {
    metadata?: Record<string, string>;
    alignment?: number;
    signal?: AbortSignal | undefined;
    onProgress?:
      ((progress: { readonly bytesDone: number; readonly bytesTotal: number }) => void) | undefined;
    onBytes?: ((bytes: Uint8Array) => void) | undefined;
  } = {},
): Promise<void> {
  const { metadata, alignment = 8, signal, onProgress, onBytes } = options;
  // Without a prototype, so that a tensor may have any name.
  const header = Object.create(null) as Record<string, unknown>;
  if (metadata) header['__metadata__'] = metadata;
  let total = 0;
  for (const { name, dtype, shape, byteLength } of tensors) {
    header[name] = { dtype, shape, data_offsets: [total, total + byteLength] };
    total += byteLength;
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const padded = Math.ceil((8 + json.byteLength) / alignment) * alignment - 8;
  const head = new Uint8Array(8 + padded).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(padded), true);
  head.set(json, 8);

  await writeFileAtomically(path, async (file) => {
    onBytes?.(head);
    await writeFully(file, head);
    let done = 0;
    for (const tensor of tensors) {
      for (let first = 0; first < tensor.byteLength; first += pieceBytes) {
        signal?.throwIfAborted();
        const piece = await tensor.read(first, Math.min(pieceBytes, tensor.byteLength - first));
        onBytes?.(piece);
        await writeFully(file, piece);
        done += piece.byteLength;
        onProgress?.({ bytesDone: done, bytesTotal: total });
      }
    }
  });
}
