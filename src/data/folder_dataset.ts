import { readdir, stat } from 'node:fs/promises';
import { basename, dirname, extname, join, relative, resolve, sep } from 'node:path';
import { ArgumentError, DatasetError, FileError, messageOf } from '../errors.js';
import type { EncodedDataset, EncodedImage, EncodedPhoto, TrainingPhoto } from './dataset.js';
import { bytesOf, describePhoto, type PhotoPosition } from './photo.js';
import { listPhotos, maskEnding, naturalOrder, type PhotoGroup } from './photo_files.js';
import { readPhotoFile } from './read_file.js';
import { decodeTrainingPhoto } from './training_photo.js';

interface PhotoFile {
  readonly path: string;
  readonly mask: string | undefined;
}

interface Identity {
  readonly name: string;
  readonly photos: readonly PhotoFile[];
}

/** Identity folders that are named in a message. */
const namedAtMost = 5;

/** Folders in a data set's folder, symbolic links to folders included: sets are often made of links. */
async function identityFolders(root: string): Promise<string[]> {
  const folders: string[] = [];
  for (const entry of await readdir(root, { withFileTypes: true })) {
    if (entry.name.startsWith('.')) continue;
    const path = join(root, entry.name);
    const status = entry.isSymbolicLink() ? await stat(path).catch(() => undefined) : entry;
    if (status?.isDirectory() === true) folders.push(path);
  }
  return folders.sort(naturalOrder);
}

/** The photos under a folder by the folder they lie in, or none. */
async function photosUnder(folder: string): Promise<PhotoGroup[]> {
  try {
    return await listPhotos([folder], 'folder');
  } catch (error) {
    if (error instanceof ArgumentError) return [];
    throw error;
  }
}

/** Photos that lie in the same folder, each with the mask beside it. */
async function withMasks(photos: readonly string[]): Promise<PhotoFile[]> {
  const [first] = photos;
  const names = new Set(first === undefined ? [] : await readdir(dirname(first)));
  return photos.map((path) => {
    const mask = basename(path, extname(path)) + maskEnding;
    return { path, mask: names.has(mask) ? join(dirname(path), mask) : undefined };
  });
}

async function encodedImage(path: string, position: PhotoPosition): Promise<EncodedImage> {
  const bytes = await readPhotoFile(path, () => bytesOf(path, describePhoto(path, position), position));
  return { name: path, extension: extname(path).slice(1).toLowerCase(), bytes };
}

/**
 * A folder of identity folders with photos and, where there are, face masks: `NAME.mask.png` beside `NAME.jpg`, of the size that the
 * photo has upright, not 0 inside the face. Identities are named by their path in the folder; their order is the natural one of
 * those names, so that the same folder gives the same numbers everywhere.
 */
export class FolderDataset implements EncodedDataset {
  private constructor(
    readonly name: string,
    private readonly people: readonly Identity[],
  ) {}

  /**
   * Lists a data set; no photo is opened.
   * @throws {FileError} `ERR_FILE` when a folder cannot be listed; {DatasetError} `ERR_DATASET` when there is no photo, or none in one of the
   * identity folders
   */
  static async open(folder: string): Promise<FolderDataset> {
    try {
      const people: Identity[] = [];
      const empty: string[] = [];
      const root = resolve(folder);
      for (const path of await identityFolders(folder)) {
        const groups = await photosUnder(path);
        if (groups.length === 0) empty.push(basename(path));
        for (const { photos } of groups) {
          const at = resolve(dirname(photos[0] ?? path));
          people.push({ name: relative(root, at).split(sep).join('/'), photos: await withMasks(photos) });
        }
      }
      if (empty.length > 0) {
        const more = empty.length > namedAtMost ? ` and ${empty.length - namedAtMost} more` : '';
        throw new DatasetError(
          `${folder}: no photos in ${empty.slice(0, namedAtMost).join(', ')}${more}: expected at least one of every identity`,
        );
      }
      if (people.length === 0) {
        throw new DatasetError(`${folder}: no identities, expected a folder of folders with photos`);
      }
      return new FolderDataset(folder, people);
    } catch (error) {
      if (error instanceof Error && 'syscall' in error) {
        throw new FileError(`cannot read ${folder}: ${messageOf(error)}`, { cause: error });
      }
      throw error;
    }
  }

  get identities(): number {
    return this.people.length;
  }

  photos(identity: number): number {
    return this.#identity(identity).photos.length;
  }

  identityName(identity: number): string {
    return this.#identity(identity).name;
  }

  hasMask(identity: number, photo: number): boolean {
    return this.#photo(identity, photo).mask !== undefined;
  }

  async encoded(identity: number, photo: number): Promise<EncodedPhoto> {
    const { path, mask } = this.#photo(identity, photo);
    const position = { identity, photo };
    return {
      image: await encodedImage(path, position),
      mask: mask === undefined ? undefined : await encodedImage(mask, position),
      labels: {},
    };
  }

  async read(identity: number, photo: number, size: number): Promise<TrainingPhoto> {
    return decodeTrainingPhoto(await this.encoded(identity, photo), size, { identity, photo });
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #identity(identity: number): Identity {
    const found = this.people[identity];
    if (!found) throw new ArgumentError(`identity ${identity} of ${this.name}, which has ${this.identities}`);
    return found;
  }

  #photo(identity: number, photo: number): PhotoFile {
    const { photos } = this.#identity(identity);
    const found = photos[photo];
    if (!found) {
      throw new ArgumentError(
        `photo ${photo} of identity ${identity} of ${this.name}, which has ${photos.length}`,
      );
    }
    return found;
  }
}
