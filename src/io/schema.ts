import { z } from 'zod';
import { ConfigError, shortened } from '../errors.js';

/** Bounds that no real model reaches; they keep products of sizes far from overflow. */
export const size = z.number().int().min(1).max(1_000_000);
export const layers = z.number().int().min(0).max(10_000);

/** A value for each of R, G and B. */
export const triple = z.tuple([z.number(), z.number(), z.number()]);

/** The value that an issue is about, where it is short enough to be shown. */
function given(json: unknown, path: readonly PropertyKey[]): string {
  let value = json;
  for (const key of path) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, key)) return '';
    value = (value as Record<PropertyKey, unknown>)[key];
  }
  return value === undefined || typeof value === 'object'
    ? ''
    : ` (given ${shortened(JSON.stringify(value))})`;
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
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const problems = result.error.issues.map(
    (issue) => `${issue.path.join('.') || 'the whole'}: ${issue.message}${given(json, issue.path)}`,
  );
  throw new ConfigError(`${name} does not describe ${what}: ${problems.join('; ')}`);
}
