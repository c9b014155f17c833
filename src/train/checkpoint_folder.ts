import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { native } from '../bindings.js';
import { FileError, FormatError, messageOf, NumericError } from '../errors.js';
import { writeFileAtomically } from '../io/atomic_file.js';
import { readFully } from '../io/files.js';
import { readSafetensorsHeader, type TensorEntry } from '../io/safetensors.js';
import { pieceBytes, writeSafetensors, type TensorSource } from '../io/safetensors_writer.js';

/**
 * One checkpoint: a folder with a safetensors file for each group of tensors (weights, moments, …) and `checkpoint.json`, which holds everything
 * else, and the length and SHA-256 of each file. It is the last file to be written, and has a checksum of its own.
 */

/** A tensor to be saved. Its values are asked for in pieces, so that no second copy of a model is ever in memory. */
export interface CheckpointTensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** Elements [first, first + count). */
  read(first: number, count: number): Float32Array | Promise<Float32Array>;
}

/** What a checkpoint holds. */
export interface CheckpointContent {
  /** Steps that have been made. */
  readonly step: number;
  /** The last loss that was measured on held-out identities, by which the best checkpoint is found. */
  readonly heldOutLoss?: number | undefined;
  /** Everything that is no tensor, as JSON: the configuration, counters, the sampler's state. */
  readonly state: unknown;
  /** By group: each is a file of its own, `<group>.safetensors`. */
  readonly tensors: Readonly<Record<string, Iterable<CheckpointTensor>>>;
}

/** Part of a tensor as it is read. */
export interface CheckpointPiece {
  readonly name: string;
  readonly shape: readonly number[];
  /** Index of the first element. */
  readonly first: number;
  /** Its memory is used again for the next piece. */
  readonly values: Float32Array;
}

const documentName = 'checkpoint.json';
const format = 1;

const document = z.object({
  format: z.literal(format),
  step: z.number().int().min(0),
  heldOutLoss: z.number().nullable(),
  files: z.record(z.string(), z.object({ bytes: z.number().int(), sha256: z.string() })),
  state: z.unknown(),
});

export interface SaveCheckpointOptions {
  /** Stops between pieces of 16 MiB; nothing is left behind then. */
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: { readonly bytesDone: number; readonly bytesTotal: number }) => void) | undefined; // prettier-ignore
}

const hashOf = (text: string): string => createHash('sha256').update(text).digest('hex');

/** JSON, which has no NaN: it would become null without a word. */
function strictJson(value: unknown, step: number): string {
  return JSON.stringify(value, (key, field: unknown) => {
    if (typeof field === 'number' && !Number.isFinite(field))
      throw new NumericError(
        `"${key}" in the state of step ${step} is ${field}: no checkpoint is written of it`,
      );
    return field;
  });
}

function source(tensor: CheckpointTensor, step: number): TensorSource {
  const { name, shape } = tensor;
  return {
    name,
    dtype: 'F32',
    shape,
    byteLength: 4 * shape.reduce((product, n) => product * n, 1),
    read: async (first, bytes) => {
      const values = await tensor.read(first / 4, bytes / 4);
      const at = native().firstNotFinite(values);
      if (at >= 0) {
        throw new NumericError(
          `${name} is ${values[at]} at element ${first / 4 + at} after step ${step}: no checkpoint is written of it`,
        );
      }
      return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    },
  };
}

/**
 * Writes a checkpoint's files into a folder that is there, synced.
 * @throws {NumericError} `ERR_NOT_FINITE` naming the tensor; {FileError} `ERR_FILE`; the signal's reason when aborted
 */
export async function writeCheckpoint(
  folder: string,
  { step, heldOutLoss, state, tensors }: CheckpointContent,
  { signal, onProgress }: SaveCheckpointOptions,
): Promise<void> {
  const stateJson = JSON.parse(strictJson(state ?? null, step)) as unknown;
  const groups = Object.entries(tensors).map(
    ([group, list]) => [group, [...list].map((tensor) => source(tensor, step))] as const,
  );
  const bytesTotal = groups.flatMap(([, list]) => list).reduce((sum, { byteLength }) => sum + byteLength, 0);
  const files: Record<string, { bytes: number; sha256: string }> = {};
  let before = 0;
  for (const [group, list] of groups) {
    const hash: Hash = createHash('sha256');
    const path = join(folder, `${group}.safetensors`);
    await writeSafetensors(path, list, {
      signal,
      onBytes: (bytes) => hash.update(bytes),
      onProgress: ({ bytesDone }) => onProgress?.({ bytesDone: before + bytesDone, bytesTotal }),
    });
    before += list.reduce((sum, { byteLength }) => sum + byteLength, 0);
    files[group] = { bytes: (await stat(path)).size, sha256: hash.digest('hex') };
  }
  const body = JSON.stringify({ format, step, heldOutLoss: heldOutLoss ?? null, files, state: stateJson });
  await writeFileAtomically(join(folder, documentName), (file) =>
    file.writeFile(`{"sha256":"${hashOf(body)}","checkpoint":${body}}\n`),
  );
}

/** A checkpoint on disk whose document is whole. */
export class StoredCheckpoint {
  private constructor(
    readonly folder: string,
    readonly step: number,
    readonly heldOutLoss: number | undefined,
    /** As it was saved. */
    readonly state: unknown,
    private readonly files: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>,
  ) {}

  /**
   * Reads a checkpoint's document, and nothing of its tensors.
   * @throws {FileError} `ERR_FILE` when it cannot be read; {FormatError} `ERR_FORMAT` when it is damaged
   */
  static async open(folder: string): Promise<StoredCheckpoint> {
    const path = join(folder, documentName);
    const text = await readFile(path, 'utf8').catch((error: unknown) => {
      throw new FileError(`cannot read ${path}: ${messageOf(error)}`, { cause: error });
    });
    // The document's text is what was hashed: between a head of known length and a closing bracket.
    const match = /^\{"sha256":"([0-9a-f]{64})","checkpoint":(.*)\}\n$/s.exec(text);
    const [, sha256, body] = match ?? [];
    if (body === undefined || hashOf(body) !== sha256)
      throw new FormatError(`${path} is damaged: its checksum does not fit its ${text.length} characters`);
    const found = document.safeParse(JSON.parse(body));
    if (!found.success) throw new FormatError(`${path} is not a checkpoint of format ${format}`);
    const { step, heldOutLoss, state, files } = found.data;
    return new StoredCheckpoint(folder, step, heldOutLoss ?? undefined, state, files);
  }

  get name(): string {
    return basename(this.folder);
  }

  /** Groups of tensors that it has. */
  get groups(): string[] {
    return Object.keys(this.files);
  }

  /**
   * A group's safetensors file.
   * @throws {FormatError} `ERR_FORMAT` when there is none
   */
  path(group: string): string {
    if (!Object.hasOwn(this.files, group))
      throw new FormatError(`${this.folder} has no tensors "${group}", only ${this.groups.join(', ')}`);
    return join(this.folder, `${group}.safetensors`);
  }

  /**
   * Reads every file, and checks that it is the one that was written.
   * @throws {FileError} `ERR_FILE`; {FormatError} `ERR_FORMAT` naming the file and what is wrong
   */
  async verify(signal?: AbortSignal): Promise<void> {
    for (const [group, { bytes, sha256 }] of Object.entries(this.files)) {
      const path = this.path(group);
      const hash = createHash('sha256');
      let length = 0;
      try {
        const chunks = createReadStream(path, { highWaterMark: 4 << 20, signal });
        for await (const chunk of chunks as AsyncIterable<Buffer>) {
          hash.update(chunk);
          length += chunk.length;
        }
      } catch (error) {
        signal?.throwIfAborted();
        throw new FileError(`cannot read ${path}: ${messageOf(error)}`, { cause: error });
      }
      if (length !== bytes) throw new FormatError(`${path} has ${length} bytes, expected ${bytes}`);
      if (hash.digest('hex') !== sha256)
        throw new FormatError(`${path} is damaged: its checksum is not the one of the file that was written`);
      await readSafetensorsHeader(path);
    }
  }

  /** Names and shapes of a group's tensors. */
  async tensors(group: string): Promise<ReadonlyMap<string, TensorEntry>> {
    return (await readSafetensorsHeader(this.path(group))).tensors;
  }

  /**
   * A group's tensors in pieces of at most 16 MiB, which is all the memory that it takes.
   * @throws {FileError} `ERR_FILE`; {FormatError} `ERR_FORMAT`
   */
  async *pieces(group: string): AsyncGenerator<CheckpointPiece> {
    const path = this.path(group);
    const tensors = await this.tensors(group);
    const buffer = new ArrayBuffer(pieceBytes);
    const file = await open(path, 'r');
    try {
      for (const [name, { shape, byteOffset, byteLength }] of tensors) {
        for (let first = 0; first < byteLength; first += pieceBytes) {
          const length = Math.min(pieceBytes, byteLength - first);
          await readFully(file, new Uint8Array(buffer, 0, length), byteOffset + first, path);
          yield { name, shape, first: first / 4, values: new Float32Array(buffer, 0, length / 4) };
        }
      }
    } finally {
      await file.close();
    }
  }
}
