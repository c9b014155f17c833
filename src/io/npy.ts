import { FormatError } from '../errors.js';
import { writeFileAtomically } from './atomic_file.js';

/**
 * NumPy's .npy: format 1.0, little-endian, C order. Source: numpy/lib/format.py. Packages on npm read the format but do not write it.
 */

/** What stands before the data, a multiple of 64 bytes. */
function npyHead(type: '<f4' | '|u1', shape: readonly number[]): Buffer {
  const dimensions = shape.length === 1 ? `${shape[0]},` : shape.join(', ');
  const text = `{'descr': '${type}', 'fortran_order': False, 'shape': (${dimensions}), }`;
  // Magic, version and length take 10 bytes; the head ends in a newline.
  const length = Math.ceil((10 + text.length + 1) / 64) * 64 - 10;
  const head = Buffer.alloc(10 + length, ' ');
  head.write('\x93NUMPY\x01\x00', 'latin1');
  head.writeUInt16LE(length, 8);
  head.write(text, 10, 'latin1');
  head.write('\n', 9 + length, 'latin1');
  return head;
}

/**
 * Writes an array of f32, atomically.
 * @throws {FileError} `ERR_FILE`
 */
export async function writeNpy(path: string, data: Float32Array, shape: readonly number[]): Promise<void> {
  await writeFileAtomically(path, async (file) => {
    await file.writeFile(npyHead('<f4', shape));
    await file.writeFile(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  });
}

/** An array of bytes as the content of a .npy file. */
export function bytesToNpy(data: Uint8Array, shape: readonly number[]): Uint8Array {
  return Buffer.concat([npyHead('|u1', shape), data]);
}

/**
 * The array of bytes in the content of a .npy file: a view, no copy.
 * @param name the file, for messages
 * @throws {FormatError} `ERR_FORMAT` for another format, element type or order, or bytes that are missing
 */
export function npyToBytes(file: Uint8Array, name: string): { data: Uint8Array; shape: number[] } {
  const fail = (why: string): never => {
    throw new FormatError(`${name} is not a .npy file of bytes: ${why}`);
  };
  const bytes = Buffer.from(file.buffer, file.byteOffset, file.byteLength);
  if (bytes.length < 12 || bytes.toString('latin1', 0, 6) !== '\x93NUMPY')
    return fail('it does not begin as one');
  // From version 2.0 on the length takes four bytes.
  const wide = (bytes[6] ?? 0) > 1;
  const start = wide ? 12 + bytes.readUInt32LE(8) : 10 + bytes.readUInt16LE(8);
  if (start > bytes.length) return fail(`its head of ${start} bytes is cut off after ${bytes.length}`);
  const head = bytes.toString('latin1', wide ? 12 : 10, start);
  const type = /'descr': *'([^']*)'/.exec(head)?.[1];
  const order = /'fortran_order': *(\w+)/.exec(head)?.[1];
  const sizes = /'shape': *\(([\d, ]*)\)/.exec(head)?.[1];
  if (type !== '|u1') return fail(`its elements are ${type ?? 'of no type'}, expected |u1`);
  if (order !== 'False' || sizes === undefined) return fail(`its order or shape is not that of a C array`);
  const shape = sizes
    .split(',')
    .filter((size) => size.trim() !== '')
    .map(Number);
  const count = shape.reduce((product, size) => product * size, 1);
  if (bytes.length - start !== count)
    return fail(`[${shape.join(', ')}] needs ${count} bytes but has ${bytes.length - start}`);
  return { data: bytes.subarray(start), shape };
}
