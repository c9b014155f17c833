import { readdir, stat } from 'node:fs/promises';
import { basename, dirname, extname, join, resolve } from 'node:path';
import { ArgumentError, FileError, messageOf } from '../errors.js';
import { isFolder } from '../io/files.js';

/** File name endings that are taken for photos when a folder is listed. */
export const photoEndings: ReadonlySet<string> = new Set([
  '.jpg',
  '.jpeg',
  '.png',
  '.webp',
  '.avif',
  '.tif',
  '.tiff',
  '.gif',
]);

/** What a face mask's name ends in: `NAME.mask.png` is the mask of the photo `NAME.jpg`, and no photo itself. */
export const maskEnding = '.mask.png';

/** How photos become identities: one for each folder, one for each file, or one of all. */
export type Grouping = 'folder' | 'file' | 'all';

/** An identity on disk. */
export interface PhotoGroup {
  readonly name: string;
  readonly photos: readonly string[];
}

export const naturalOrder = new Intl.Collator('en', { numeric: true }).compare;

/** Adds the photos in a folder and its subfolders to `photos`, in natural order. Hidden files and face masks are left out. */
async function addPhotosUnder(folder: string, photos: string[]): Promise<void> {
  const entries = await readdir(folder, { withFileTypes: true });
  for (const entry of entries.sort((a, b) => naturalOrder(a.name, b.name))) {
    if (entry.name.startsWith('.') || entry.name.toLowerCase().endsWith(maskEnding)) continue;
    const path = join(folder, entry.name);
    const status = entry.isSymbolicLink() ? await stat(path).catch(() => undefined) : entry;
    if (status?.isDirectory() === true && !entry.isSymbolicLink()) await addPhotosUnder(path, photos);
    else if (status?.isFile() === true && photoEndings.has(extname(path).toLowerCase())) photos.push(path);
  }
}

/** The photos in each folder as an identity, named like the folder, or by its whole path where two have the same name. */
function groupByFolder(photos: readonly string[]): PhotoGroup[] {
  const folders = new Map<string, string[]>();
  const uses = new Map<string, number>();
  for (const photo of photos) {
    const folder = dirname(resolve(photo));
    const members = folders.get(folder);
    if (members) {
      members.push(photo);
      continue;
    }
    folders.set(folder, [photo]);
    const name = basename(folder);
    uses.set(name, (uses.get(name) ?? 0) + 1);
  }
  return Array.from(folders, ([folder, members]) => {
    const name = basename(folder);
    return { name: (uses.get(name) ?? 0) > 1 ? folder : name, photos: members };
  });
}

/**
 * Lists photos and groups them into identities. Files are taken as they are named, whatever their ending; folders give the photos in them and their
 * subfolders. Grouped by `folder`, the photos that lie in one folder are one identity, so that a folder of folders is a set of identities.
 * @throws {FileError} `ERR_FILE` for a folder that cannot be listed; {ArgumentError} `ERR_INVALID_ARGUMENT` when no photo is found
 */
export async function listPhotos(paths: readonly string[], grouping: Grouping): Promise<PhotoGroup[]> {
  const photos: string[] = [];
  for (const path of paths) {
    try {
      // A path that is not there is a photo that cannot be used, found out with the others that cannot.
      if (await isFolder(path)) await addPhotosUnder(path, photos);
      else photos.push(path);
    } catch (error) {
      throw new FileError(`cannot read ${path}: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }
  if (photos.length === 0) {
    throw new ArgumentError(
      `no photos in ${paths.join(', ')}: expected files ending in ${[...photoEndings].join(' ')}`,
    );
  }
  if (grouping === 'all') return [{ name: 'all', photos }];
  if (grouping === 'file') return photos.map((photo) => ({ name: photo, photos: [photo] }));
  return groupByFolder(photos);
}
