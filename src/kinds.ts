import { z } from 'zod';
import { ArgumentError } from './errors.js';

/**
 * What values of options and configurations can be. Every message about one has the same form, wherever it is checked:
 * `threads is 0, expected a whole number from 1 to 1024`.
 */
export interface Kind<T> {
  /** Continues "expected". */
  readonly expected: string;
  readonly holds: (value: unknown) => value is T;
}

export function kind<T>(expected: string, holds: (value: unknown) => boolean): Kind<T> {
  return { expected, holds: (value): value is T => holds(value) };
}

/** What a value is, for messages: its kind, and the value where it is short. */
export function describe(value: unknown): string {
  if (value === null || value === undefined || typeof value === 'boolean') return String(value);
  if (typeof value === 'number') return String(value);
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value);
  if (Array.isArray(value) && value.length <= 8)
    return `[${value.map((element) => describe(element)).join(', ')}]`;
  if (typeof value === 'object') {
    const { constructor } = value as { constructor?: { name?: unknown } };
    return typeof constructor?.name === 'string' && constructor.name !== 'Object'
      ? `of type ${constructor.name}`
      : 'an object';
  }
  return `a ${typeof value}`;
}

/** Large bounds as what they are: 2^53 − 1. */
function bound(n: number): string {
  const bits = Math.log2(n + 1);
  return bits >= 31 && Number.isInteger(bits) ? `2^${bits} − 1` : String(n);
}

/** @param why of the larger bound, where it is not plain */
export function whole(least: number, most = Number.MAX_SAFE_INTEGER, why?: string): Kind<number> {
  return kind(
    `a whole number from ${bound(least)} to ${bound(most)}${why === undefined ? '' : ` (${why})`}`,
    (value) => Number.isSafeInteger(value) && Number(value) >= least && Number(value) <= most,
  );
}

/** Bounds of a number; those that are not given are open. */
export interface Bounds {
  readonly from?: number;
  readonly above?: number;
  readonly to?: number;
  readonly below?: number;
}

export function number({ from, above, to, below }: Bounds = {}): Kind<number> {
  const words = [
    ...(from === undefined ? [] : [`of at least ${from}`]),
    ...(above === undefined ? [] : [`above ${above}`]),
    ...(to === undefined ? [] : [`at most ${to}`]),
    ...(below === undefined ? [] : [`below ${below}`]),
  ].join(' and ');
  const range = from !== undefined && to !== undefined ? `from ${from} to ${to}` : words;
  return kind(
    range === '' ? 'a number' : `a number ${range}`,
    (value) =>
      typeof value === 'number' &&
      Number.isFinite(value) &&
      !(from !== undefined && value < from) &&
      !(above !== undefined && value <= above) &&
      !(to !== undefined && value > to) &&
      !(below !== undefined && value >= below),
  );
}

/** `"f32", "f16" or "bf16"` */
function alternatives(values: readonly unknown[]): string {
  const texts = values.map((value) => JSON.stringify(value));
  return [texts.slice(0, -1).join(', '), ...texts.slice(-1)].filter((text) => text !== '').join(' or ');
}

export function oneOf<const T extends string>(...names: readonly T[]): Kind<T> {
  return kind(alternatives(names), (value) => names.includes(value as T));
}

export function orNull<T>({ expected, holds }: Kind<T>): Kind<T | null> {
  return kind(`${expected}, or null`, (value) => value === null || holds(value));
}

export const flag = kind<boolean>('true or false', (value) => typeof value === 'boolean');
export const path = kind<string>('a path', (value) => typeof value === 'string' && value !== '');
/** A seed of anything random. */
export const seed = whole(0);
/** A mask ratio, a share of patches. */
export const maskRatio = number({ above: 0, below: 1 });

/**
 * Checks one value.
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`
 */
export function check<T>(name: string, value: unknown, { expected, holds }: Kind<T>): asserts value is T {
  if (!holds(value)) throw new ArgumentError(`${name} is ${describe(value)}, expected ${expected}`);
}

/** A value of this kind as a field of a schema. */
export function field<T>({ expected, holds }: Kind<T>): z.ZodCustom<T, T> {
  return z.custom<T>(holds, { error: ({ input }) => `is ${describe(input)}, expected ${expected}` });
}

/** An object whose unknown fields are named in the message, beside those that it knows. */
export function strict<T extends z.ZodRawShape>(
  shape: T,
  what: 'option' | 'field' = 'field',
): z.ZodObject<T, z.core.$strict> {
  const known = Object.keys(shape).join(', ');
  return z.strictObject(shape, {
    error: (issue) => {
      if (issue.code !== 'unrecognized_keys')
        return `is ${describe(issue.input)}, expected an object with ${known}`;
      const keys = issue.keys.map((key) => JSON.stringify(key)).join(', ');
      return `unknown ${what} ${keys}: expected ${known}`;
    },
  });
}

/** One of several objects, which a field of theirs tells apart. */
export function told(by: string, ...values: readonly string[]): { error: z.core.$ZodErrorMap } {
  return {
    error: ({ code, input }) =>
      code === 'invalid_union'
        ? `is ${describe((input as Record<string, unknown>)[by])}, expected ${alternatives(values)}`
        : `is ${describe(input)}, expected an object whose ${by} is ${alternatives(values)}`,
  };
}

const kinds: Readonly<Record<string, string>> = {
  string: 'a text', number: 'a number', int: 'a whole number', boolean: 'true or false',
  array: 'a list', tuple: 'a list', object: 'an object', record: 'an object',
}; // prettier-ignore

/** What zod says of its own kinds, in the form of all messages. */
const inOneForm: z.core.$ZodErrorMap = (issue) => {
  const given = `is ${describe(issue.input)}`;
  switch (issue.code) {
    case 'invalid_type':
      return `${given}, expected ${kinds[issue.expected] ?? issue.expected}`;
    case 'invalid_value':
      return `${given}, expected ${alternatives(issue.values)}`;
    case 'too_small':
      return `${given}, expected ${String(issue.minimum)} elements`;
    case 'too_big':
      return `${given}, expected ${String(issue.maximum)} elements`;
    default:
      return undefined;
  }
};

/** A value as a schema has it, or all that is wrong with it, field by field. */
export function parse<T extends z.ZodType>(
  schema: T,
  value: unknown,
): { readonly data: z.output<T> } | { readonly problems: string } {
  const result = schema.safeParse(value, { error: inOneForm });
  if (result.success) return { data: result.data };
  const problems = result.error.issues.map(({ path: at, message }) => {
    const name = at.join('.');
    if (message.startsWith('is ')) return `${name || 'the whole'} ${message}`;
    return name === '' ? message : `${name}: ${message}`;
  });
  return { problems: problems.join('; ') };
}
