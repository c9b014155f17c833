import { z } from 'zod';
import { ConfigError } from '../errors.js';

/** Bounds that no real model reaches; they keep products of sizes far from overflow. */
export const size = z.number().int().min(1).max(1_000_000);
export const layers = z.number().int().min(0).max(10_000);

/** A value for each of R, G and B. */
export const triple = z.tuple([z.number(), z.number(), z.number()]);

/**
 * A JSON value as a schema has it.
 * @param name where it is from, for messages
 * @throws {ConfigError} `ERR_CONFIG` listing every problem
 */
export function parsed<T extends z.ZodType>(schema: T, json: unknown, name: string): z.output<T> {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const problems = result.error.issues.map(
    (issue) => `${issue.path.join('.') || 'the whole'}: ${issue.message}`,
  );
  throw new ConfigError(`${name} does not describe a model: ${problems.join('; ')}`);
}
