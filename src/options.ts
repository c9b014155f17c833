import { Stream } from 'node:stream';
import sharp from 'sharp';
import { z } from 'zod';
import { ArgumentError } from './errors.js';
import { deviceName } from './graph/devices.js';
import { describe, field, flag, kind, maskRatio, oneOf, parse, path, seed, strict, whole } from './kinds.js';

/**
 * The options of public calls as schemas: what is unknown, misspelt or of the wrong type is refused before any work, all at once, with what was given and
 * what was expected.
 */

/** Pixels of the largest image that the engine takes: their bytes are counted in 31 bits. */
export const mostPixels = Math.floor(2 ** 31 / 3);
/** Threads to compute with. */
export const threadCount = whole(1, 1024);

/** Whether sharp understands a colour. */
function isColour(value: unknown): boolean {
  if (typeof value !== 'string') return false;
  try {
    sharp({ create: { width: 1, height: 1, channels: 3, background: value } });
    return true;
  } catch {
    return false;
  }
}

const callback = field(kind('a function', (value) => typeof value === 'function')).optional();
/** Of every call that takes long. */
export const signal = field(
  kind<AbortSignal>('an AbortSignal', (value) => value instanceof AbortSignal),
).optional();
const folder = field(kind<string>('the path of a folder', path.holds)).optional();

const computeFields = {
  device: field(deviceName).optional(),
  threads: field(threadCount).optional(),
  dtype: field(oneOf('f32', 'bf16')).optional(),
};

const decodeFields = {
  background: field(kind('a colour, like "#ffffff" or "white"', isColour)).optional(),
  maxPixels: field(whole(1, mostPixels)).optional(),
};

const targetFields = {
  ...decodeFields,
  visible: z.unknown().optional(), // checked with the targets, as masks are
  masks: z.unknown().optional(),
  maskRatio: field(maskRatio).optional(),
  seed: field(seed).optional(),
  signal,
  onProgress: callback,
};

const schemas = {
  load: options({ ...computeFields, packedCache: field(oneOf('use', 'write', 'ignore')).optional(), signal }),
  create: options({ ...computeFields, seed: field(seed).optional(), signal, vision: folder }),
  embed: options({ ...decodeFields, signal, onProgress: callback, onPhotoError: callback }),
  embedImages: options({
    ...decodeFields,
    signal,
    onProgress: callback,
    onPhotoError: callback,
    feature: field(oneOf('last_hidden_state', 'penultimate', 'pooled')).optional(),
  }),
  save: options({ dtype: field(oneOf('f32', 'f16', 'bf16')).optional(), signal, onProgress: callback }),
  createMtd: options({ ...computeFields, seed: field(seed).optional(), signal }),
  losses: options(targetFields),
  reconstruct: options({ ...targetFields, format: field(oneOf('f32', 'rgb')).optional() }),
  prepare: options({ ...decodeFields, signal }),
  exportCheckpoint: options({
    runFolder: folder,
    folder,
    checkpoint: field(
      kind(
        '"latest", "best" or a step',
        (value) => value === 'latest' || value === 'best' || whole(0).holds(value),
      ),
    ).optional(),
  }),
  train: options({
    runFolder: folder,
    resume: field(flag).optional(),
    output: field(
      kind('a writable stream or null', (value) => value === null || value instanceof Stream),
    ).optional(),
    signal,
    onProgress: callback,
  }),
};

/** A call's options as a schema. */
export function options<T extends z.ZodRawShape>(shape: T): z.ZodObject<T, z.core.$strict> {
  return strict(shape, 'option');
}

/**
 * Checks the options of a call. Fields that are undefined count as absent, also unknown ones: callers pass on what they have.
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT` naming every field that is unknown or wrong
 */
export function checked<T extends z.ZodObject>(call: string, schema: T, given: unknown): z.output<T> {
  if (typeof given !== 'object' || given === null || Array.isArray(given))
    throw new ArgumentError(`the options of ${call} are ${describe(given)}, expected an object`);
  const result = parse(schema, defined(given));
  if ('problems' in result) throw new ArgumentError(result.problems);
  return result.data;
}

/**
 * Checks the options of a call that has its schema here.
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT` naming every field that is unknown or wrong
 */
export function checkOptions(call: keyof typeof schemas, given: unknown): void {
  checked(call, schemas[call], given);
}

/**
 * @param name what messages call it by
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT` unless `given` can be the path of a folder
 */
export function checkFolder(given: unknown, name = 'the folder'): asserts given is string {
  if (!path.holds(given))
    throw new ArgumentError(`${name} is ${describe(given)}, expected the path of a folder`);
}

/** The fields that are not undefined. */
export function defined<T extends object>(fields: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as never;
}
