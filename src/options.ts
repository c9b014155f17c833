import { Stream } from 'node:stream';
import sharp from 'sharp';
import { z } from 'zod';
import { ArgumentError } from './errors.js';
import { expectedDevice, isDeviceName } from './graph/devices.js';

/**
 * The options of public calls as schemas: what is unknown, misspelt or of the wrong type is refused before any work, all at once, with what was given and
 * what was expected.
 */

/** What a value is, for messages: its kind, and the value where it is short. */
export function describe(value: unknown): string {
  if (value === null || value === undefined || typeof value === 'boolean') return String(value);
  if (typeof value === 'number') return String(value);
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value);
  if (typeof value === 'object') {
    const { constructor } = value as { constructor?: { name?: unknown } };
    return typeof constructor?.name === 'string' && constructor.name !== 'Object'
      ? `of type ${constructor.name}`
      : 'an object';
  }
  return `a ${typeof value}`;
}

function is(expected: string, holds: (value: unknown) => boolean): z.ZodType {
  return z
    .any()
    .refine(holds, { error: ({ input }) => `is ${describe(input)}, expected ${expected}` })
    .optional();
}

function oneOf(what: string, names: readonly string[]): z.ZodType {
  const list = names.map((name) => JSON.stringify(name)).join(' or ');
  return z
    .any()
    .refine((value) => names.includes(value as string), {
      error: ({ input }) => `unknown ${what} ${describe(input)}: expected ${list}`,
    })
    .optional();
}

function wholeNumber(least: number, most: number): z.ZodType {
  const range = most === Number.MAX_SAFE_INTEGER ? '2^53 − 1' : String(most);
  return is(
    `a whole number from ${least} to ${range}`,
    (value) => Number.isSafeInteger(value) && Number(value) >= least && Number(value) <= most,
  );
}

const path = is('the path of a folder', (value) => typeof value === 'string' && value !== '');
const callback = is('a function', (value) => typeof value === 'function');
const signal = is('an AbortSignal', (value) => value instanceof AbortSignal);

/** Pixels of the largest image that the engine takes: their bytes are counted in 31 bits. */
export const mostPixels = Math.floor(2 ** 31 / 3);

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

const deviceFields = {
  device: is(expectedDevice, isDeviceName),
  threads: wholeNumber(1, 1024),
  dtype: oneOf('dtype', ['f32', 'bf16']),
};

const decodeFields = {
  background: is('a colour, like "#ffffff" or "white"', isColour),
  maxPixels: wholeNumber(1, mostPixels),
};

const seed = wholeNumber(0, Number.MAX_SAFE_INTEGER);

/** What a mask ratio, a share of patches, can be. */
export const isMaskRatio = (value: unknown): boolean => typeof value === 'number' && value > 0 && value < 1;

const targetFields = {
  ...decodeFields,
  visible: z.unknown().optional(), // checked with the targets, as masks are
  masks: z.unknown().optional(),
  maskRatio: is('a number above 0 and below 1', isMaskRatio),
  seed,
  signal,
  onProgress: callback,
};

const schemas = {
  load: z.strictObject({
    ...deviceFields,
    packedCache: oneOf('packedCache', ['use', 'write', 'ignore']),
    signal,
  }),
  create: z.strictObject({
    ...deviceFields,
    seed,
    signal,
    vision: path,
  }),
  embed: z.strictObject({ ...decodeFields, signal, onProgress: callback, onPhotoError: callback }),
  embedImages: z.strictObject({
    ...decodeFields,
    signal,
    onProgress: callback,
    onPhotoError: callback,
    feature: oneOf('feature', ['last_hidden_state', 'penultimate', 'pooled']),
  }),
  save: z.strictObject({ dtype: oneOf('dtype', ['f32', 'f16', 'bf16']), signal, onProgress: callback }),
  createMtd: z.strictObject({ ...deviceFields, seed, signal }),
  losses: z.strictObject(targetFields),
  reconstruct: z.strictObject({ ...targetFields, format: oneOf('format', ['f32', 'rgb']) }),
  prepare: z.strictObject({ ...decodeFields, signal }),
  exportCheckpoint: z.strictObject({
    runFolder: path,
    folder: path,
    checkpoint: is(
      '"latest", "best" or a step',
      (value) => typeof value === 'string' || typeof value === 'number',
    ),
  }),
  train: z.strictObject({
    runFolder: path,
    resume: is('true or false', (value) => typeof value === 'boolean'),
    output: is('a writable stream or null', (value) => value === null || value instanceof Stream),
    signal,
    onProgress: callback,
  }),
};

/**
 * Checks the options of a call.
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT` naming every field that is unknown or wrong
 */
export function checkOptions(call: keyof typeof schemas, options: unknown): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw new ArgumentError(`the options of ${call} are ${describe(options)}, expected an object`);
  }
  const schema = schemas[call];
  // Fields that are undefined count as absent, also unknown ones: callers pass on what they have.
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const result = schema.safeParse(given);
  if (result.success) return;
  const known = Object.keys(schema.shape).join(', ');
  const problems = result.error.issues.map((issue) =>
    issue.code === 'unrecognized_keys'
      ? `unknown option ${issue.keys.map((key) => JSON.stringify(key)).join(', ')}: expected ${known}`
      : `${issue.path.join('.')} ${issue.message}`.replace(/^(\w+) unknown \1/, 'unknown $1'),
  );
  throw new ArgumentError(problems.join('; '));
}

/** @throws {ArgumentError} `ERR_INVALID_ARGUMENT` unless `folder` can be the path of one */
export function checkFolder(folder: unknown): asserts folder is string {
  if (typeof folder !== 'string' || folder === '') {
    throw new ArgumentError(`the folder is ${describe(folder)}, expected a path`);
  }
}

/** The fields that are not undefined. */
export function defined<T extends object>(fields: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as never;
}
