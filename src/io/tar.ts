import type { FileHandle } from 'node:fs/promises';
import { Header, Pax } from 'tar';
import { FormatError } from '../errors.js';
import { readFully } from './files.js';

/**
 * Tar archives as a list of files at known places, so that any of them can be read at once. Headers are node-tar's; its streams
 * tell no offsets and read all of the content.
 */

export interface TarFile {
  readonly path: string;
  /** First byte of the content in the archive. */
  readonly offset: number;
  readonly bytes: number;
}

const blockBytes = 512;
const upToBlock = (bytes: number): number => Math.ceil(bytes / blockBytes) * blockBytes;

/** Bytes that are read at a time: headers of small files lie close together. */
const windowBytes = 1024 * 1024;
/** A path or what else a header is extended by; far more than any file system allows. */
const longestExtension = 1024 * 1024;

/** Reads a file in large pieces. */
class Window {
  readonly #bytes = Buffer.allocUnsafe(windowBytes);
  #start = 0;
  #length = 0;

  constructor(
    private readonly file: FileHandle,
    readonly fileBytes: number,
  ) {}

  /** Bytes [position, position + count), which lie in the file; valid until the next call. */
  async read(position: number, count: number): Promise<Buffer> {
    if (count > windowBytes) return readSlice(this.file, position, count);
    if (position < this.#start || position + count > this.#start + this.#length) {
      this.#start = position;
      this.#length = 0;
      const wanted = Math.min(windowBytes, this.fileBytes - position);
      await readFully(this.file, this.#bytes.subarray(0, wanted), position);
      this.#length = wanted;
    }
    return this.#bytes.subarray(position - this.#start, position - this.#start + count);
  }
}

/**
 * Bytes [position, position + count) of a file.
 * @throws {FormatError} `ERR_FORMAT` when the file ends before
 */
export async function readSlice(file: FileHandle, position: number, count: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafeSlow(count);
  await readFully(file, bytes, position);
  return bytes;
}

/** A header, or nothing where node-tar finds numbers in it that none can be. */
function decodedHeader(block: Buffer, extended: Pax | undefined): Header | undefined {
  try {
    return new Header(block, 0, extended);
  } catch {
    return undefined;
  }
}

/**
 * The files in a tar archive, in order: ustar, pax and GNU long names. Contents are skipped, not read. Links and folders are left out.
 * @param name the archive, for messages
 * @throws {FormatError} `ERR_FORMAT` for a damaged header or an archive that was cut off
 */
export async function* tarFiles(
  file: FileHandle,
  name: string,
): AsyncGenerator<TarFile & { read(): Promise<Buffer> }, void, void> {
  const { size } = await file.stat();
  const window = new Window(file, size);
  let longPath: string | undefined;
  let extended: Pax | undefined;
  let position = 0;
  while (position < size) {
    if (position + blockBytes > size) {
      throw new FormatError(`${name} was cut off: a header at byte ${position} of ${size} is not whole`);
    }
    const header = decodedHeader(await window.read(position, blockBytes), extended);
    if (header?.nullBlock === true) return;
    if (header?.cksumValid !== true || header.size === undefined) {
      throw new FormatError(
        `${name} is no tar archive, or damaged: the header at byte ${position} is invalid`,
      );
    }
    const { type, size: bytes } = header;
    const offset = position + blockBytes;
    const path = extended?.path ?? longPath ?? header.path ?? '';
    if (offset + bytes > size) {
      throw new FormatError(
        `${name} was cut off: ${path} ends at byte ${offset + bytes}, the archive at ${size}`,
      );
    }
    position = offset + upToBlock(bytes);
    if (['ExtendedHeader', 'OldExtendedHeader', 'NextFileHasLongPath', 'OldGnuLongPath'].includes(type)) {
      if (bytes > longestExtension) {
        throw new FormatError(`${name}: a name of ${bytes} bytes, expected at most ${longestExtension}`);
      }
      const text = (await window.read(offset, bytes)).toString('utf8');
      if (type.endsWith('ExtendedHeader')) extended = Pax.parse(text, extended);
      else longPath = text.replace(/\0.*$/s, '');
      continue;
    }
    if (type === 'File' || type === 'OldFile' || type === 'ContiguousFile') {
      yield { path, offset, bytes, read: async () => Buffer.from(await window.read(offset, bytes)) };
    }
    // These stand before the file that a name is for, too.
    if (type === 'GlobalExtendedHeader' || type === 'NextFileHasLongLinkpath') continue;
    longPath = undefined;
    extended = undefined;
  }
}

/**
 * What stands before a file's content. Owner and time are left out, so that the same content gives the same archive.
 * @param path relative, with `/`, without line feeds
 */
export function tarHeader(path: string, bytes: number): Buffer {
  const fields = {
    path,
    size: bytes,
    mode: 0o644,
    uid: 0,
    gid: 0,
    mtime: new Date(0),
    type: 'File',
  } as const;
  const header = new Header(fields);
  // A name that is long or not ASCII has a header of its own before the file's, which is kept for programs that know only the old one.
  const extended = header.encode() ? new Pax({ path, size: bytes }).encode() : Buffer.alloc(0);
  return Buffer.concat([extended, header.block ?? Buffer.alloc(0)]);
}

/** Zeros that fill a file's last block. */
export function tarPadding(bytes: number): Buffer {
  return Buffer.alloc(upToBlock(bytes) - bytes);
}

/** What stands at the end of an archive. */
export const tarEnd = Buffer.alloc(2 * blockBytes);
