import { DatasetError, FileError, ImageError } from '../errors.js';
import type { IdentityDataset } from './dataset.js';

export interface CheckOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** A photo that cannot be read, and why. */
export interface UnreadablePhoto {
  readonly identity: number;
  readonly photo: number;
  readonly error: ImageError | DatasetError | FileError;
}

/** Side of the photos that are only looked at, in pixels. */
const checkSize = 32;
/** Identities that are looked at side by side: libuv's threads less one. */
const atOnce = 3;
/** Identities that are named in a message. */
const namedAtMost = 5;

/** Runs `body` for every identity, a few at once. */
async function eachIdentity(
  dataset: IdentityDataset,
  { signal, onProgress }: CheckOptions,
  body: (identity: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  let done = 0;
  const work = async (): Promise<void> => {
    while (next < dataset.identities) {
      signal?.throwIfAborted();
      await body(next++);
      onProgress?.(++done, dataset.identities);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, work));
}

/** Whether an error is of one photo, and no mistake in a program. */
export function isOfPhoto(error: unknown): error is UnreadablePhoto['error'] {
  return error instanceof ImageError || error instanceof DatasetError || error instanceof FileError;
}

async function problemOf(
  dataset: IdentityDataset,
  identity: number,
  photo: number,
): Promise<UnreadablePhoto | undefined> {
  try {
    await dataset.read(identity, photo, checkSize);
    return undefined;
  } catch (error) {
    if (isOfPhoto(error)) return { identity, photo, error };
    throw error;
  }
}

/** Decodes every photo. @returns those that cannot be read, in order; @throws the signal's reason */
export async function unreadablePhotos(
  dataset: IdentityDataset,
  options: CheckOptions = {},
): Promise<UnreadablePhoto[]> {
  const found: UnreadablePhoto[] = [];
  await eachIdentity(dataset, options, async (identity) => {
    for (let photo = 0; photo < dataset.photos(identity); photo++) {
      const problem = await problemOf(dataset, identity, photo);
      if (problem) found.push(problem);
    }
  });
  return found.sort((a, b) => a.identity - b.identity || a.photo - b.photo);
}

/**
 * Makes sure, before training starts, that there is something to read of every identity; of most it decodes one photo only.
 * @throws {DatasetError} `ERR_DATASET` naming identities of which nothing can be read; {FileError} `ERR_FILE`; the signal's reason
 */
export async function requireReadable(dataset: IdentityDataset, options: CheckOptions = {}): Promise<void> {
  const lost: UnreadablePhoto[] = [];
  await eachIdentity(dataset, options, async (identity) => {
    let last: UnreadablePhoto | undefined;
    for (let photo = 0; photo < dataset.photos(identity); photo++) {
      last = await problemOf(dataset, identity, photo);
      if (!last) return;
      if (last.error instanceof FileError) throw last.error;
    }
    if (last) lost.push(last);
  });
  const [first] = lost.sort((a, b) => a.identity - b.identity);
  if (!first) return;
  const names = lost.slice(0, namedAtMost).map(({ identity }) => dataset.identityName(identity));
  const more = lost.length > namedAtMost ? ` and ${lost.length - namedAtMost} more` : '';
  throw new DatasetError(
    `${dataset.name}: nothing can be read of ${names.join(', ')}${more} (${first.error.message})`,
    { cause: first.error },
  );
}
