import { open, stat, type FileHandle } from 'node:fs/promises';
import { visit, type JSONVisitor } from 'jsonc-parser';
import { FileError, FormatError, messageOf, shortened } from '../errors.js';
import { readFully } from './files.js';

/**
 * The safetensors format: 8 bytes little-endian header length, a JSON header, the tensors' bytes. The checks are those of the reference
 * implementation (huggingface/safetensors, safetensors/src/tensor.rs), and duplicate keys and deep nesting besides, which JSON parsers let pass.
 */

/** Bits of an element of every dtype of the format. */
const dtypeBits = {
  BOOL: 8, F4: 4, F6_E2M3: 6, F6_E3M2: 6, U8: 8, I8: 8, F8_E5M2: 8, F8_E4M3: 8, F8_E8M0: 8,
  I16: 16, U16: 16, F16: 16, BF16: 16, I32: 32, U32: 32, F32: 32, C64: 64, F64: 64, I64: 64, U64: 64,
} as const; // prettier-ignore

export type SafetensorsDType = keyof typeof dtypeBits;

export interface TensorEntry {
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  /** First byte in the file. */
  readonly byteOffset: number;
  readonly byteLength: number;
}

export interface SafetensorsHeader {
  /** In the order of their bytes. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: ReadonlyMap<string, string>;
}

/** The reference implementation's limit. */
const largestHeader = 100_000_000;

/** The header, a tensor's entry, its shape. Recursive readers of JSON run out of stack on some thousands. */
const deepest = 3;

/** Throws when brackets outside of strings are nested deeper than the format has any use for. */
function checkDepth(text: string, fail: (why: string) => never): void {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const char = text[i];
    if (inString) {
      if (char === '\\') i++;
      else if (char === '"') inString = false;
    } else if (char === '"') {
      inString = true;
    } else if (char === '{' || char === '[') {
      if (++depth > deepest) fail(`the header is nested deeper than ${deepest} levels`);
    } else if (char === '}' || char === ']') {
      depth--;
    }
  }
}

const shown = (value: unknown): string =>
  value === undefined ? 'undefined' : shortened(JSON.stringify(value));

/**
 * Throws unless the text is strict JSON, no object in it has the same key twice, and sizes are written as whole numbers: the reference reads
 * `usize`, for which 2.0, 8e0 and -0 are none.
 */
function checkText(text: string, fail: (why: string) => never): void {
  const open: Set<string>[] = [];
  let problem: string | undefined;
  const visitor: JSONVisitor = {
    onObjectBegin: () => void open.push(new Set()),
    onObjectEnd: () => void open.pop(),
    onObjectProperty: (name) => {
      const keys = open.at(-1);
      if (keys?.has(name)) problem ??= `the key ${shown(name)} occurs twice`;
      keys?.add(name);
    },
    onLiteralValue: (value, offset, length, _line, _character, path) => {
      if (typeof value !== 'number' || problem !== undefined) return;
      const written = text.slice(offset, offset + length);
      if (/^\d+$/.test(written)) return;
      const [tensor, field] = path();
      if (field === 'shape' || field === 'data_offsets')
        problem = `tensor ${shown(tensor)} has ${shown(written)} in its ${field}, expected whole numbers`;
    },
    onError: () => void (problem ??= 'the header is not valid JSON'),
  };
  visit(text, visitor, { disallowComments: true, allowTrailingComma: false });
  if (problem !== undefined) fail(problem);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isSize(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

/** Size of a tensor, or Infinity from where numbers do not hold it exactly, far beyond any file. */
function bitsOf(dtype: SafetensorsDType, shape: readonly number[]): number {
  if (shape.includes(0)) return 0;
  let bits: number = dtypeBits[dtype];
  for (const n of shape) {
    bits *= n;
    if (bits > Number.MAX_SAFE_INTEGER) return Infinity;
  }
  return bits;
}

/**
 * Checks a header.
 * @param header the JSON bytes, without the length before them
 * @param fileBytes size of the whole file
 * @param name the file, for messages
 * @throws {FormatError} `ERR_FORMAT` naming the file, the tensor, what was found and what the format demands
 */
export function parseSafetensorsHeader(
  header: Uint8Array,
  fileBytes: number,
  name: string,
): SafetensorsHeader {
  const fail = (why: string): never => {
    throw new FormatError(`${name} is not a valid safetensors file: ${why}`);
  };
  let text: string;
  let json: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(header);
  } catch {
    return fail('the header is not UTF-8');
  }
  if (!text.startsWith('{')) fail('the header does not begin with {');
  checkDepth(text, fail);
  try {
    json = JSON.parse(text);
  } catch (error) {
    return fail(`the header is not JSON (${messageOf(error)})`);
  }
  checkText(text, fail);
  if (!isObject(json)) return fail('the header is not an object');

  const dataBegin = 8 + header.byteLength;
  const dataBytes = fileBytes - dataBegin;
  const metadata = new Map<string, string>();
  const entries: [string, TensorEntry][] = [];
  for (const [key, value] of Object.entries(json)) {
    if (key === '__metadata__') {
      if (!isObject(value)) return fail('__metadata__ is not an object');
      for (const [field, text] of Object.entries(value)) {
        if (typeof text !== 'string') return fail(`__metadata__.${shortened(field)} is not a string`);
        metadata.set(field, text);
      }
      continue;
    }
    const tensor = `tensor ${shown(key)}`;
    if (!isObject(value)) return fail(`${tensor} is not an object`);
    const { dtype, shape, data_offsets: offsets } = value;
    if (typeof dtype !== 'string' || !Object.hasOwn(dtypeBits, dtype)) {
      return fail(`${tensor} has the unknown dtype ${shown(dtype)}`);
    }
    if (!Array.isArray(shape) || !shape.every(isSize)) {
      return fail(`${tensor} has the shape ${shown(shape)}, expected whole numbers`);
    }
    if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize)) {
      return fail(`${tensor} has the data_offsets ${shown(offsets)}, expected [begin, end]`);
    }
    const [begin, end] = offsets as [number, number];
    if (begin > end || end > dataBytes) {
      return fail(`${tensor} lies at bytes ${begin} to ${end} of ${dataBytes}`);
    }
    const bits = bitsOf(dtype as SafetensorsDType, shape);
    if (bits !== 8 * (end - begin)) {
      const needed =
        bits === Infinity ? 'more than any file has' : bits % 8 === 0 ? `${bits / 8} bytes` : `${bits} bits`;
      return fail(
        `${tensor} of ${dtype} [${shortened(shape.join(', '))}] needs ${needed} but has ${end - begin} bytes`,
      );
    }
    entries.push([
      key,
      { dtype: dtype as SafetensorsDType, shape, byteOffset: dataBegin + begin, byteLength: end - begin },
    ]);
  }
  entries.sort(([, a], [, b]) => a.byteOffset - b.byteOffset || a.byteLength - b.byteLength);
  let at = dataBegin;
  for (const [key, entry] of entries) {
    if (entry.byteOffset !== at) {
      return fail(
        `tensor ${shown(key)} ${entry.byteOffset < at ? 'overlaps the one before it' : 'leaves a gap before it'}`,
      );
    }
    at += entry.byteLength;
  }
  if (at !== fileBytes) return fail(`${fileBytes - at} bytes after the last tensor belong to none`);
  return { tensors: new Map(entries), metadata };
}

async function withFile<T>(path: string, body: (file: FileHandle, bytes: number) => Promise<T>): Promise<T> {
  let file: FileHandle | undefined;
  try {
    const { size } = await stat(path);
    file = await open(path, 'r');
    return await body(file, size);
  } catch (error) {
    if (error instanceof FormatError) throw error;
    throw new FileError(`cannot read ${path}: ${messageOf(error)}`, {
      cause: error,
    });
  } finally {
    await file?.close();
  }
}

async function headerOf(file: FileHandle, fileBytes: number, path: string): Promise<SafetensorsHeader> {
  if (fileBytes < 8)
    throw new FormatError(
      `${path} is not a valid safetensors file: it has ${fileBytes} bytes, not even a header length`,
    );
  const lengthBytes = new Uint8Array(8);
  await readFully(file, lengthBytes, 0, path);
  const length = new DataView(lengthBytes.buffer).getBigUint64(0, true);
  if (length > BigInt(largestHeader) || length > BigInt(fileBytes - 8)) {
    throw new FormatError(
      `${path} is not a valid safetensors file: a header of ${length} bytes in a file of ${fileBytes}` +
        (length > BigInt(largestHeader) ? `, expected at most ${largestHeader}` : ''),
    );
  }
  const header = new Uint8Array(Number(length));
  await readFully(file, header, 8, path);
  return parseSafetensorsHeader(header, fileBytes, path);
}

/**
 * Reads and checks a file's header, and nothing else of it.
 * @throws {FormatError} `ERR_FORMAT`; {FileError} `ERR_FILE` when the file cannot be read
 */
export function readSafetensorsHeader(path: string): Promise<SafetensorsHeader> {
  return withFile(path, (file, bytes) => headerOf(file, bytes, path));
}

/** A tensor in memory, as {@link readSafetensors} gives it. */
export interface LoadedTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array | BigInt64Array | Uint8Array;
}

function widen(bytes: Uint8Array, dtype: SafetensorsDType): LoadedTensor['data'] {
  const buffer = bytes.buffer as ArrayBuffer;
  switch (dtype) {
    case 'F32':
      return new Float32Array(buffer);
    case 'I32':
      return new Int32Array(buffer);
    case 'I64':
      return new BigInt64Array(buffer);
    case 'BF16': {
      const bits = Uint32Array.from(new Uint16Array(buffer), (half) => (half << 16) >>> 0);
      return new Float32Array(bits.buffer);
    }
    default:
      return bytes;
  }
}

/**
 * Reads a whole file into memory: F32 and BF16 as Float32Array, I32 and I64 as such, everything else as bytes. For small files; models
 * are mapped instead.
 * @throws {FormatError} `ERR_FORMAT`; {FileError} `ERR_FILE`
 */
export function readSafetensors(path: string): Promise<Map<string, LoadedTensor>> {
  return withFile(path, async (file, bytes) => {
    const tensors = new Map<string, LoadedTensor>();
    for (const [name, entry] of (await headerOf(file, bytes, path)).tensors) {
      const data = new Uint8Array(entry.byteLength);
      await readFully(file, data, entry.byteOffset, path);
      tensors.set(name, { shape: entry.shape, data: widen(data, entry.dtype) });
    }
    return tensors;
  });
}
