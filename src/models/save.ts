import { mkdir, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { NativeWeights } from '../bindings.js';
import { FileError, messageOf } from '../errors.js';
import { translated } from '../graph/session.js';
import { writeFileAtomically } from '../io/atomic_file.js';
import { isFolder } from '../io/files.js';
import { writeSafetensors, type TensorSource } from '../io/safetensors_writer.js';

/** Element types that weights can be saved in. */
export type SaveDType = 'f32' | 'f16' | 'bf16';

export interface SaveOptions {
  /** Default: f32. */
  dtype?: SaveDType | undefined;
  /** Stops between pieces of 16 MiB; the call rejects with the signal's reason, and nothing has changed on disk. */
  signal?: AbortSignal | undefined;
  /** Called after every piece; what it throws rejects the call. */
  onProgress?: ((progress: { readonly bytesDone: number; readonly bytesTotal: number }) => void) | undefined;
}

/**
 * Writes a model's folder: `model.safetensors`, then `config.json`, each replaced as a whole or not at all. The folder is made when its parent exists.
 * Peak memory: 16 MiB.
 * @throws {FileError} `ERR_FILE`; the signal's reason when aborted
 */
export async function saveModel(
  folder: string,
  weights: NativeWeights,
  expected: ReadonlyMap<string, { readonly shape: readonly number[] }>,
  config: Record<string, unknown>,
  { dtype = 'f32', signal, onProgress }: SaveOptions,
): Promise<void> {
  const made = await mkdir(folder).then(
    () => true,
    async (error: unknown) => {
      if (await isFolder(folder)) return false;
      throw new FileError(`cannot write to ${folder}: ${messageOf(error)}`, { cause: error });
    },
  );
  const width = dtype === 'f32' ? 4 : 2;
  const tensors = [...expected].map(([name, { shape }]): TensorSource => ({
    name,
    dtype: dtype.toUpperCase() as 'F32' | 'F16' | 'BF16',
    shape,
    byteLength: width * shape.reduce((product, n) => product * n, 1),
    read: (first, count) => translated(() => weights.read(name, dtype, first / width, count / width)),
  }));
  try {
    await writeSafetensors(join(folder, 'model.safetensors'), tensors, {
      metadata: { format: 'pt' },
      signal,
      onProgress,
    });
  } catch (error) {
    // An empty folder is a trace too; one that something else is in by now stays.
    if (made) await rmdir(folder).catch(() => undefined);
    throw error;
  }
  const json = `${JSON.stringify(config, null, 2)}\n`;
  await writeFileAtomically(join(folder, 'config.json'), (file) => file.writeFile(json));
}
