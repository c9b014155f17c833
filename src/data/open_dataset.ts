import { isFolder } from '../io/files.js';
import { FileError } from '../errors.js';
import type { EncodedDataset } from './dataset.js';
import { FolderDataset } from './folder_dataset.js';
import { ShardDataset, shardNames } from './webdataset.js';

/**
 * Opens a data set on disk: a folder with .tar shards, or one of identity folders.
 * @throws {FileError} `ERR_FILE`; {DatasetError} `ERR_DATASET` when there is nothing to train on
 */
export async function openDataset(folder: string): Promise<EncodedDataset> {
  if (!(await isFolder(folder))) throw new FileError(`${folder} is not a folder: expected a data set`);
  const shards = await shardNames(folder);
  return shards.length > 0 ? ShardDataset.open(folder) : FolderDataset.open(folder);
}
