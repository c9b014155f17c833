import { ArgumentError } from '../errors.js';
import { counted } from '../text.js';

type Json = Record<string, unknown>;

/** JSON, or a text that needs no quotes. */
function valueOf(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

/** Where a setting may reach into what the file has left out, or has in its short form. */
function longForm(json: Json): Json {
  const { encoder, decoders = [{ type: 'mtd' }], data = { kind: 'rendered' } } = json;
  return {
    ...json,
    ...(typeof encoder === 'string' && { encoder: { preset: encoder } }),
    decoders,
    data,
  };
}

/**
 * A configuration with `key.path=value` settings over it: `optimizer.learningRate=1e-4`, `decoders.0.maskRatio=0.9`,
 * `optimizer.frozen=["encoder.vision_model.*"]`. Whether the fields exist is for the schema to say.
 * @param json left as it is
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT` for what is no setting, or leads into a value that has no fields
 */
export function withSettings(json: unknown, settings: readonly string[]): unknown {
  if (settings.length === 0 || typeof json !== 'object' || json === null || Array.isArray(json)) return json;
  const result = longForm(structuredClone(json) as Json);
  for (const setting of settings) {
    const equals = setting.indexOf('=');
    const keys = setting.slice(0, Math.max(0, equals)).split('.');
    if (equals < 1 || !keys.every((key) => /^\w+$/.test(key) && key !== '__proto__'))
      throw new ArgumentError(`--set ${setting}: expected key.path=value, like optimizer.learningRate=1e-4`);
    let holder = result as unknown;
    for (const [i, key] of keys.entries()) {
      const name = keys.slice(0, i).join('.');
      if (typeof holder !== 'object' || holder === null) {
        throw new ArgumentError(
          `--set ${setting}: ${name} is ${JSON.stringify(holder)}, which has no fields`,
        );
      }
      if (Array.isArray(holder) && !Object.hasOwn(holder, key)) {
        throw new ArgumentError(
          `--set ${setting}: ${name} has ${counted(holder.length, 'element')}, numbered from 0`,
        );
      }
      const fields = holder as Json;
      if (i === keys.length - 1) fields[key] = valueOf(setting.slice(equals + 1));
      else if (!Object.hasOwn(fields, key)) fields[key] = {};
      holder = fields[key];
    }
  }
  return result;
}
