import { exists, isFolder } from '../io/files.js';
import { DatasetError, FileError } from '../errors.js';
import { check, oneOf } from '../kinds.js';
import { checkFolder } from '../options.js';
import type { EncodedDataset } from './dataset.js';
import { FolderDataset } from './folder_dataset.js';
import { ShardDataset, shardNames } from './webdataset.js';

/** How photos lie on disk: in identity folders, or in .tar shards. */
export type StoredKind = 'folder' | 'shards';

/**
 * Opens a data set on disk: a folder with .tar shards, or one of identity folders.
 * @param kind which of the two it has to be. Default: the one that it is
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`; {FileError} `ERR_FILE`; {DatasetError} `ERR_DATASET` when there is nothing to train on, or it is of the other kind
 */
export async function openDataset(folder: string, kind?: StoredKind): Promise<EncodedDataset> {
  checkFolder(folder);
  if (kind !== undefined) check('kind', kind, oneOf('folder', 'shards'));
  if (!(await isFolder(folder))) {
    const what = (await exists(folder)) ? 'is not a folder' : 'is not there';
    throw new FileError(`${folder} ${what}: expected a data set`);
  }
  const shards = await shardNames(folder);
  if (kind === 'folder' && shards.length > 0)
    throw new DatasetError(`${folder} holds .tar shards, not identity folders: expected the kind "shards"`);
  if (kind === 'shards' && shards.length === 0)
    throw new DatasetError(`${folder} holds no .tar shards: of identity folders the kind is "folder"`);
  return shards.length > 0 ? ShardDataset.open(folder) : FolderDataset.open(folder);
}
