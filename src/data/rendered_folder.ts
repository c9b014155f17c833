import { randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ArgumentError, FileError, messageOf } from '../errors.js';
import { writeFileAtomically } from '../io/atomic_file.js';
import { makeFolder } from '../io/files.js';
import { describe } from '../kinds.js';
import { rendererVersion } from './rendered.js';
import type { EncodedRender } from './rendered_photos.js';

/** File in a folder of rendered people that says how they were drawn, and by which version of the renderer. */
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

/** The version of the renderer that drew a folder; undefined when its record names none, or is none. */
function versionOf(record: string): unknown {
  try {
    const json: unknown = JSON.parse(record);
    return typeof json === 'object' && json !== null && 'rendererVersion' in json
      ? json.rendererVersion
      : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Makes a folder ready for rendered people, and tells who is there already: a run that was interrupted goes on where it stopped.
 * @param settings how people are drawn; those that are there were drawn alike
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT` when the folder holds something else, or what another version of the renderer drew;
 *   {FileError} `ERR_FILE`
 */
export async function openRenderedFolder(
  folder: string,
  settings: Readonly<Record<string, unknown>>,
): Promise<ReadonlySet<string>> {
  const path = join(folder, settingsName);
  const text = `${JSON.stringify({ rendererVersion, ...settings }, null, 2)}\n`;
  const names = await withFileErrors(folder, async () => {
    await makeFolder(folder);
    return (await readdir(folder)).filter((name) => !name.startsWith('.'));
  });
  if (names.length === 0) {
    await writeFileAtomically(path, (file) => file.writeFile(text));
    return new Set();
  }
  const there = await readFile(path, 'utf8').catch(() => undefined);
  if (there === undefined) {
    throw new ArgumentError(
      `${folder} is not empty and no rendered data set: expected a new folder, or one that was begun with the same options`,
    );
  }
  const version = versionOf(there);
  if (version !== rendererVersion) {
    const by = version === undefined ? 'an unknown version' : `version ${describe(version)}`;
    throw new ArgumentError(
      `${folder} was drawn by ${by} of the renderer, expected version ${rendererVersion}`,
    );
  }
  if (there !== text) {
    const inALine = (json: string): string => json.replace(/\s+/g, ' ').trim();
    throw new ArgumentError(
      `${folder} was drawn with other options (${settingsName} has ${inALine(there)}), expected ${inALine(text)}`,
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
