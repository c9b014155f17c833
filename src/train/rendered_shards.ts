import { randomBytes } from 'node:crypto';
import { readdir, rename, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { ahead, range } from '../data/ahead.js';
import type { IdentityDataset } from '../data/dataset.js';
import { encodedMask, encodedPhoto } from '../data/encode_square.js';
import { openDataset } from '../data/open_dataset.js';
import { rendererVersion } from '../data/rendered.js';
import { viewDefaults, type ViewOptions } from '../data/view_options.js';
import { RenderedDataset } from '../data/rendered_dataset.js';
import { writeShards, type PackedPhoto } from '../data/shard_writer.js';
import { DatasetError, FileError, FormatError, messageOf } from '../errors.js';
import { exists, isSystemError, makeFolder } from '../io/files.js';
import { defined } from '../options.js';

/** Rendered people by the seeds of the first, and the size of their photos. */
export interface RenderedPeople {
  readonly identities: number;
  readonly views: number;
  readonly firstSeed: number;
  /** Side of the photos, in pixels. */
  readonly size: number;
  /** What of the views is chosen instead of drawn. */
  readonly view?: ViewOptions | undefined;
}

export interface RenderedShardsOptions {
  readonly signal?: AbortSignal | undefined;
  /** Told how rendering goes, when the photos are not there yet. */
  readonly onRender?: ((done: number, total: number) => void) | undefined;
}

/** Photos that are rendered ahead, so that all of the renderer's threads work while one is written. */
const renderedAhead = 16;

function decodedPhotos(
  { identities, views, firstSeed, size, view }: RenderedPeople,
  signal: AbortSignal | undefined,
): AsyncIterable<PackedPhoto> {
  const dataset = new RenderedDataset({ identities, views, firstSeed, ...view });
  const make = async (index: number): Promise<PackedPhoto> => {
    const identity = Math.floor(index / views);
    const { pixels, mask } = await dataset.read(identity, index % views, size);
    return {
      identity: dataset.identityName(identity),
      image: await encodedPhoto(pixels, size, 'npy'),
      mask: await encodedMask(mask, size, 'npy'),
    };
  };
  return ahead(range(identities * views), renderedAhead, make, signal);
}

/** Name of the folder that such people are kept in: all that they follow from. A choice that changes nothing is none. */
function folderName({ identities, views, firstSeed, size, view }: RenderedPeople): string {
  const defaults: Readonly<Record<string, unknown>> = viewDefaults;
  const chosen = Object.entries(defined(view ?? {})).filter(([field, value]) => value !== defaults[field]);
  const words = JSON.stringify(Object.fromEntries(chosen.sort())).replace(/["{}]/g, '').replace(/[:,]/g, '-');
  return `v${rendererVersion}-${firstSeed}-${identities}x${views}-${size}px${words === '' ? '' : `-${words}`}`;
}

/** Folders that this process is rendering into. */
const underWay = new Set<string>();
/** What temporary folders of this machine begin with; the process follows, then what tells its folders apart. */
const temporaryPrefix = `.rendering-${hostname()}-`;

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return !isSystemError(error, 'ESRCH');
  }
}

/** Removes what killed processes of this machine have left in a folder of data sets. */
async function removeLeftovers(parent: string): Promise<void> {
  for (const name of await readdir(parent)) {
    if (!name.startsWith(temporaryPrefix) || underWay.has(join(parent, name))) continue;
    const pid = Number(name.slice(temporaryPrefix.length).split('-')[0]);
    if (pid === process.pid || !isAlive(pid)) await rm(join(parent, name), { recursive: true, force: true });
  }
}

/** Photos that were rendered before; of damaged ones it is said how they are had again. */
async function reopened(folder: string): Promise<IdentityDataset> {
  return openDataset(folder).catch((error: unknown) => {
    if (!(error instanceof DatasetError || error instanceof FormatError)) throw error;
    throw new DatasetError(`${error.message}. These are rendered photos: without ${folder} they are rendered anew`, { cause: error }); // prettier-ignore
  });
}

/**
 * Rendered people as shards of decoded photos: drawn once, then read at next to no cost. They are in a folder of `parent` that their seeds name;
 * it is whole or not there, whenever the process dies. Several processes may share `parent`.
 * @throws {FileError} `ERR_FILE`; the signal's reason
 */
export async function renderedShards(
  parent: string,
  people: RenderedPeople,
  { signal, onRender }: RenderedShardsOptions = {},
): Promise<IdentityDataset> {
  const { identities, views } = people;
  const folder = join(parent, folderName(people));
  if (await exists(folder)) return reopened(folder);
  onRender?.(0, identities * views);
  await makeFolder(parent);
  const temporary = join(parent, `${temporaryPrefix}${process.pid}-${randomBytes(6).toString('hex')}`);
  underWay.add(temporary);
  try {
    await removeLeftovers(parent);
    await writeShards(temporary, decodedPhotos(people, signal), {
      signal,
      onPhoto: (done) => onRender?.(done, identities * views),
    });
    await rename(temporary, folder).catch(async (error: unknown) => {
      // Another process was quicker; the same seeds give the same photos.
      if (!(await exists(folder))) throw error;
    });
  } catch (error) {
    if (error instanceof Error && 'syscall' in error)
      throw new FileError(`cannot render to ${folder}: ${messageOf(error)}`, { cause: error });
    throw error;
  } finally {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    underWay.delete(temporary);
  }
  return openDataset(folder);
}
