import { z } from 'zod';
import { ConfigError } from '../errors.js';
import { describe, field, number, parse, whole } from '../kinds.js';

/** Bounds that no real model reaches; they keep products of sizes far from overflow. */
export const size = field(whole(1, 1_000_000));
export const layers = field(whole(0, 10_000));
/** Of a vision tower. */
export const depth = field(whole(1, 10_000));
/** Side of an image, in pixels. */
export const pixels = field(whole(1, 16_384));
/** Of a multi-layer perceptron: its width inside, in widths. */
export const ratio = field(number({ above: 0, to: 64 }));
/** A small number, like the epsilon of a norm. */
export const share = field(number({ from: 0, to: 1 }));
export const positive = field(number({ above: 0 }));

/** A value for each of R, G and B. */
export const triple = z.tuple([field(number()), field(number()), field(number())]);
export const positiveTriple = z.tuple([positive, positive, positive]);

/** The only value that is supported, and why. */
export function only<const T extends string | number | boolean>(value: T, why?: string): z.ZodLiteral<T> {
  return z.literal(value, {
    error: ({ input }) =>
      `is ${describe(input)}, expected ${JSON.stringify(value)}${why === undefined ? '' : `: ${why}`}`,
  });
}

/** For `refine`: one field is a multiple of another. */
export function multiple<K extends string>(name: K, of: K) {
  return [
    (config: Readonly<Record<K, number>>) => config[name] % config[of] === 0,
    {
      path: [name] as PropertyKey[],
      error: ({ input }: { input?: unknown }) => {
        const config = input as Readonly<Record<K, number>>;
        return `is ${config[name]}, expected a multiple of ${of}, which is ${config[of]}`;
      },
    },
  ] as const;
}

/**
 * A JSON value as a schema has it.
 * @param name where it is from, for messages
 * @param what the schema describes, for messages
 * @throws {ConfigError} `ERR_CONFIG` listing every problem
 */
export function parsed<T extends z.ZodType>(
  schema: T,
  json: unknown,
  name: string,
  what = 'a model',
): z.output<T> {
  const result = parse(schema, json);
  if ('problems' in result) throw new ConfigError(`${name} does not describe ${what}: ${result.problems}`);
  return result.data;
}
