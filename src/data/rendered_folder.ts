import { randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ArgumentError, FileError, messageOf } from '../errors.js';
import { writeFileAtomically } from '../io/atomic_file.js';
import { makeFolder } from '../io/files.js';
import type { EncodedRender } from './rendered_photos.js';

/** File in a folder of rendered people that says how they were drawn. */
const settingsName = 'rendered.json';

async function withFileErrors<T>(path: string, body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (error instanceof Error && 'syscall' in error)
      throw new FileError(`cannot write ${path}: ${messageOf(error)}`, { cause: error });
    throw error;
  }
}

/**
 * Makes a folder ready for rendered people, and tells who is there already: a run that was interrupted goes on where it stopped.
 * @param settings how people are drawn; those that are there were drawn alike
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT` when the folder holds something else; {FileError} `ERR_FILE`
 */
export async function openRenderedFolder(
  folder: string,
  settings: Readonly<Record<string, unknown>>,
): Promise<ReadonlySet<string>> {
  const path = join(folder, settingsName);
  const text = `${JSON.stringify(settings, null, 2)}\n`;
  const names = await withFileErrors(folder, async () => {
    await makeFolder(folder);
    return (await readdir(folder)).filter((name) => !name.startsWith('.'));
  });
  if (names.length === 0) {
    await writeFileAtomically(path, (file) => file.writeFile(text));
    return new Set();
  }
  const there = await readFile(path, 'utf8').catch(() => undefined);
  if (there !== text) {
    throw new ArgumentError(
      there === undefined
        ? `${folder} is not empty and no rendered data set: expected a new folder, or one that was begun with the same options`
        : `${folder} was drawn with other options (${settingsName} has ${there.replace(/\s+/g, ' ').trim()}), expected ${JSON.stringify(settings)}`,
    );
  }
  return new Set(names.filter((name) => name !== settingsName));
}

/**
 * Writes rendered photos as `IDENTITY/VIEW.png`, `IDENTITY/VIEW.mask.png` and `IDENTITY/labels.jsonl`, one line a photo. A person's folder is
 * there when it is whole. The photos of a person follow one another.
 * @throws {FileError} `ERR_FILE`; what `photos` throws
 */
export async function writeRenderedFolder(
  folder: string,
  photos: AsyncIterable<EncodedRender>,
  onPhoto: () => void,
): Promise<void> {
  let person: string | undefined;
  let lines: string[] = [];
  const temporary = join(folder, `.${process.pid}.${randomBytes(6).toString('hex')}.tmp`);
  const finish = async (): Promise<void> => {
    if (person === undefined) return;
    await writeFile(join(temporary, 'labels.jsonl'), lines.join(''));
    await rename(temporary, join(folder, person));
    lines = [];
  };
  await withFileErrors(folder, async () => {
    try {
      for await (const { identity, image, mask, labels } of photos) {
        if (identity !== person) {
          await finish();
          await mkdir(temporary);
          person = identity;
        }
        const name = String(lines.length).padStart(3, '0');
        await writeFile(join(temporary, `${name}.${image.extension}`), image.bytes);
        await writeFile(join(temporary, `${name}.mask.${mask.extension}`), mask.bytes);
        lines.push(`${JSON.stringify({ photo: `${name}.${image.extension}`, ...labels })}\n`);
        onPhoto();
      }
      await finish();
    } catch (error) {
      await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
      throw error;
    }
  });
}
