import { writeFileAtomically } from './atomic_file.js';

/**
 * Writes an array as NumPy's .npy (format 1.0, little-endian f32, C order), atomically.
 * Source: numpy/lib/format.py. Packages on npm read the format but do not write it.
 * @throws {FileError} `ERR_FILE`
 */
export async function writeNpy(path: string, data: Float32Array, shape: readonly number[]): Promise<void> {
  const dimensions = shape.length === 1 ? `${shape[0]},` : shape.join(', ');
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${dimensions}), }`;
  // Magic, version and length take 10 bytes; the data begins at a multiple of 64, after a newline.
  const length = Math.ceil((10 + text.length + 1) / 64) * 64 - 10;
  const head = Buffer.alloc(10 + length, ' ');
  head.write('\x93NUMPY\x01\x00', 'latin1');
  head.writeUInt16LE(length, 8);
  head.write(text, 10, 'latin1');
  head.write('\n', 9 + length, 'latin1');
  await writeFileAtomically(path, async (file) => {
    await file.writeFile(head);
    await file.writeFile(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  });
}
