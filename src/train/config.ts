import type { z } from 'zod';
import { heldOutSeed, mostRenderedPixels } from '../data/rendered.js';
import { mostPackedPhotos } from '../data/shard_writer.js';
import { ArgumentError, ConfigError, FileError } from '../errors.js';
import { readJson, type OmniIdEncoderConfig } from '../io/config.js';
import { defaultImageProcessor } from '../io/image_processor.js';
import { exists } from '../io/files.js';
import { parsed } from '../io/schema.js';
import { readClipFolder } from '../models/clip_vision_encoder.js';
import { presets } from '../models/presets.js';
import { describe } from '../kinds.js';
import { defined } from '../options.js';
import { trainingSchema } from './config_schema.js';
import { trainingPresets } from './presets.js';
import { withSettings } from './settings.js';

type Parsed = z.output<typeof trainingSchema>;

/** What a configuration file may say; everything has a default. */
export type TrainingConfigInput = z.input<typeof trainingSchema>;

/** A masked transformer decoder of a run, with all of its sizes. */
export interface MtdConfig extends Omit<Parsed['decoders'][number], 'imageSize' | 'width' | 'heads'> {
  readonly imageSize: number;
  readonly width: number;
  readonly heads: number;
}

/** A decoder of a run; `type` tells which. */
export type DecoderConfig = MtdConfig;

type RenderedData = Extract<Parsed['data'], { kind: 'rendered' }>;

/** Where photos come from; `kind` tells which. */
export type DataConfig =
  | Exclude<Parsed['data'], { kind: 'rendered' }>
  | (Omit<RenderedData, 'size'> & { /** Side of the pictures, in pixels. */ size: number });

/** A training run: a configuration with every default filled in. As JSON it is a configuration again, which gives the same. */
export interface TrainingConfig extends Omit<Parsed, 'encoder' | 'decoders' | 'data'> {
  readonly encoder: OmniIdEncoderConfig;
  readonly decoders: readonly DecoderConfig[];
  readonly data: DataConfig;
}

/** Where a vision tower comes from that has a config of its own. */
export type ClipTower = Pick<OmniIdEncoderConfig, 'vision' | 'imageProcessor'>;

/** `value` times what `to` is of `from`, where that is a whole number; else `value`. */
function scaled(value: number, from: number, to: number): number {
  const result = (value * to) / from;
  return Number.isSafeInteger(result) ? result : value;
}

function resolveEncoder(given: Parsed['encoder'], clip: ClipTower | undefined): OmniIdEncoderConfig {
  const { preset, vision: tower, imageProcessor, ...head } = given;
  const base: OmniIdEncoderConfig = presets[preset];
  const hiddenSize = tower.hiddenSize ?? base.vision.hiddenSize;
  const vision = clip?.vision ?? {
    ...base.vision,
    intermediateSize: scaled(base.vision.intermediateSize, base.vision.hiddenSize, hiddenSize),
    numAttentionHeads: scaled(base.vision.numAttentionHeads, base.vision.hiddenSize, hiddenSize),
    ...defined(tower),
  };
  return {
    ...base,
    heads: scaled(base.heads, base.width, head.width ?? base.width),
    ...defined(head),
    vision,
    imageProcessor: imageProcessor ?? clip?.imageProcessor ?? defaultImageProcessor(vision.imageSize),
  };
}

function resolveDecoder(given: Parsed['decoders'][number], encoder: OmniIdEncoderConfig): DecoderConfig {
  const { imageSize = encoder.vision.imageSize, width = encoder.width } = given;
  const { heads = scaled(encoder.heads, encoder.width, width) } = given;
  return { ...given, imageSize, width, heads };
}

/** Patches of a decoder's target: all of them, and those that it sees. */
export function patchesOf({ imageSize, patchSize, maskRatio }: MtdConfig): {
  all: number;
  visible: number;
} {
  const all = (imageSize / patchSize) ** 2;
  return { all, visible: Math.round(all * (1 - maskRatio)) };
}

/** What no single field shows: sizes that must divide each other. */
function* conflicts(config: TrainingConfig): Generator<string> {
  const { encoder, decoders, data, sampling, accumulation } = config;
  const { vision } = encoder;
  function* multiple(name: string, value: number, of: string, divisor: number): Generator<string> {
    if (value % divisor !== 0)
      yield `${name} is ${value}, expected a multiple of ${of}, which is ${divisor}`;
  }
  yield* multiple('encoder.vision.hiddenSize', vision.hiddenSize, 'its numAttentionHeads', vision.numAttentionHeads);
  yield* multiple('encoder.vision.imageSize', vision.imageSize, 'its patchSize', vision.patchSize);
  yield* multiple('encoder.width', encoder.width, 'its heads', encoder.heads);
  if (encoder.crossBlocks === 0) yield 'encoder.crossBlocks is 0, expected at least 1: without one, no photo reaches ℓ';
  if (encoder.imageProcessor.cropSize !== vision.imageSize)
    yield `encoder.imageProcessor.cropSize is ${encoder.imageProcessor.cropSize}, expected the tower's imageSize, ${vision.imageSize}`;
  for (const [i, decoder] of decoders.entries()) {
    const name = `decoders.${i}`;
    yield* multiple(`${name}.width`, decoder.width, 'its heads', decoder.heads);
    // Without one, ℓ reaches no prediction.
    if (decoder.crossBlocks === 0) yield `${name}.crossBlocks is 0, expected at least 1`;
    const misfit = [...multiple(`${name}.imageSize`, decoder.imageSize, 'its patchSize', decoder.patchSize)];
    yield* misfit;
    const { all, visible } = patchesOf(decoder);
    if (misfit.length === 0 && (visible < 1 || visible >= all))
      yield `${name}.maskRatio is ${decoder.maskRatio}, which leaves ${visible} of ${all} patches visible: expected at least 1 and fewer than all`;
  }
  if (data.kind === 'rendered') {
    const { firstSeed, identities, views, size, heldOut } = data;
    if (identities * views > mostPackedPhotos)
      yield `data.identities × data.views is ${identities * views} photos, expected at most ${mostPackedPhotos}: their index is read as one text`;
    if (size > mostRenderedPixels)
      yield `data.size is ${size}, the largest imageSize of encoder and decoders, expected at most ${mostRenderedPixels}`;
    const last = firstSeed + identities - 1;
    if (firstSeed < heldOutSeed + heldOut.identities && last >= heldOutSeed)
      yield `data.firstSeed is ${firstSeed} and data.identities ${identities}: people ${firstSeed} to ${last} would be trained on, those from ${heldOutSeed} on are held out`;
  }
  const [fewest, most] = sampling.inputs;
  if (fewest > most) yield `sampling.inputs is [${fewest}, ${most}], expected the smaller number first`;
  yield* multiple('sampling.identities', sampling.identities, 'accumulation', accumulation);
} // prettier-ignore

/**
 * A training configuration from JSON.
 * @param name where it is from, for messages
 * @param clip the tower of the CLIP model that `clip` names
 * @throws {ConfigError} `ERR_CONFIG` listing every unknown field and every value that is not one of a training run
 */
export function parseTrainingConfig(json: unknown, name: string, clip?: ClipTower): TrainingConfig {
  const given = parsed(trainingSchema, json, name, 'a training run');
  const encoder = resolveEncoder(given.encoder, clip);
  const decoders = given.decoders.map((decoder) => resolveDecoder(decoder, encoder));
  const largest = Math.max(encoder.vision.imageSize, ...decoders.map(({ imageSize }) => imageSize));
  const { data } = given;
  const config: TrainingConfig = {
    ...given,
    encoder,
    decoders,
    data: data.kind === 'rendered' ? { ...data, size: data.size ?? largest } : data,
  };
  const problems = [...conflicts(config)];
  if (problems.length > 0)
    throw new ConfigError(`${name} does not describe a training run: ${problems.join('; ')}`);
  return config;
}

/**
 * The configuration of a run: from a file, or a preset, with `key.path=value` settings over it.
 * @param source a path, or JSON, with the name that messages call it by
 * @throws {FileError} `ERR_FILE` when the file or the CLIP folder cannot be read; {ConfigError} `ERR_CONFIG`; {ArgumentError}
 *   `ERR_INVALID_ARGUMENT` for a setting that is none, or settings that make what is a training run without them none
 */
export async function readTrainingConfig(
  source: string | { readonly json: TrainingConfigInput; readonly name?: string },
  settings: readonly string[] = [],
): Promise<TrainingConfig> {
  const given: unknown = source;
  const isSource =
    typeof given === 'string'
      ? given !== ''
      : typeof given === 'object' &&
        given !== null &&
        'json' in given &&
        !('name' in given && given.name !== undefined && typeof given.name !== 'string');
  if (!isSource)
    throw new ArgumentError(`the configuration is ${describe(given)}, expected the path of a file, or { json, name }`); // prettier-ignore
  const list: unknown = settings;
  if (!Array.isArray(list) || !list.every((setting) => typeof setting === 'string'))
    throw new ArgumentError(`the settings are ${describe(list)}, expected a list of texts like "steps=100"`);
  const { json: read, name: ofFile = 'the configuration' } =
    typeof source === 'string' ? { json: await readFileOf(source), name: source } : source;
  const resolved = async (json: unknown, name: string): Promise<TrainingConfig> => {
    // What is wrong with the file comes before what is wrong with a folder that it names.
    const { clip } = parsed(trainingSchema, json, name, 'a training run');
    return parseTrainingConfig(json, name, clip === undefined ? undefined : await readClipFolder(clip));
  };
  const json = withSettings(read, settings);
  try {
    return await resolved(json, settings.length > 0 ? `${ofFile} with its settings` : ofFile);
  } catch (error) {
    if (!(error instanceof ConfigError) || settings.length === 0) throw error;
    // Where the file by itself is a run, the settings are what is wrong.
    const isRun = await resolved(read, ofFile).then(() => true, () => false); // prettier-ignore
    if (!isRun) throw error;
    throw new ArgumentError(error.message, { cause: error });
  }
}

/** A configuration file; that somebody means a preset is said where there is none. */
async function readFileOf(path: string): Promise<unknown> {
  if (Object.hasOwn(trainingPresets, path) && !(await exists(path)))
    throw new FileError(`there is no file ${path}: of the preset, expected { json: trainingPresets[${JSON.stringify(path)}] }`); // prettier-ignore
  return readJson(path);
}

/** Fields that a message about a configuration names. */
const namedAtMost = 5;

/**
 * Checks that a value is a whole configuration, with every default filled in, as programs without types may not have it.
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT` when it is no object; {ConfigError} `ERR_CONFIG` when it is none, or only part of one
 */
export function checkTrainingConfig(config: unknown): asserts config is TrainingConfig {
  const how = 'readTrainingConfig or parseTrainingConfig makes one';
  if (typeof config !== 'object' || config === null || Array.isArray(config))
    throw new ArgumentError(`the configuration is ${describe(config)}, expected a TrainingConfig: ${how}`);
  const whole: unknown = JSON.parse(JSON.stringify(parseTrainingConfig(config, 'the configuration')));
  const json: unknown = JSON.parse(JSON.stringify(config));
  const missing = difference(json, whole).map(({ field }) => field);
  if (missing.length === 0) return;
  const more = missing.length > namedAtMost ? ', …' : '';
  throw new ConfigError(
    `the configuration is not whole, it lacks ${missing.slice(0, namedAtMost).join(', ')}${more}: ${how}`,
  );
}

/** Fields that a run may be resumed with another value of: they change what it writes, where, or how fast, but no step that it has made. */
export const resumable = [
  'steps', 'log', 'checkpoints', 'device', 'threads', 'checkpointing', 'clip', 'maxSkippedSteps',
  'data.prefetch', 'data.workers', 'data.cache',
] as const; // prettier-ignore

/** A field that two configurations have different values of; undefined where one has none. */
export interface Difference {
  readonly field: string;
  readonly a: unknown;
  readonly b: unknown;
}

/** The fields in which two JSON values differ, down to plain values and lists of such, in the order of `a`. */
export function difference(a: unknown, b: unknown, field = ''): Difference[] {
  const isObject = (value: unknown): value is Record<string, unknown> =>
    typeof value === 'object' &&
    value !== null &&
    (!Array.isArray(value) || value.some((element) => typeof element === 'object'));
  if (isObject(a) && isObject(b) && Array.isArray(a) === Array.isArray(b)) {
    const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
    return [...keys].flatMap((key) => difference(a[key], b[key], field === '' ? key : `${field}.${key}`));
  }
  return JSON.stringify(a) === JSON.stringify(b) ? [] : [{ field, a, b }];
}

const shown = (value: unknown): string => (value === undefined ? 'absent' : JSON.stringify(value));

/**
 * Checks that a run can go on with a configuration.
 * @param saved what the checkpoint was made with, or the run begun, as JSON
 * @param name the checkpoint, for messages
 * @param step steps that have been made
 * @throws {ConfigError} `ERR_CONFIG` naming every field that differs and may not, or when there are more steps than the run is to have
 */
export function checkResumable(saved: unknown, config: TrainingConfig, name: string, step = 0): void {
  const now: unknown = JSON.parse(JSON.stringify(config));
  const problems = difference(saved, now)
    .filter(({ field }) => !resumable.some((free) => field === free || field.startsWith(`${free}.`)))
    .map(({ field, a, b }) => `${field} was ${shown(a)} and is now ${shown(b)}`);
  if (problems.length > 0)
    throw new ConfigError(`${name} is of another configuration: ${problems.join('; ')}`);
  if (step > config.steps)
    throw new ConfigError(`steps is ${config.steps}, but ${name} is at step ${step}: expected at least that`);
}
