// Training runs that take a fraction of a second: a tower of one layer at 28 px, on six rendered people.
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { readSafetensors } from '../../src/io/safetensors.js';
import { parseTrainingConfig, type TrainingConfig } from '../../src/train/config.js';
import type { TrainingProgress } from '../../src/train/console.js';
import { readJsonLog, type LogEntry } from '../../src/train/json_log.js';
import { withSettings } from '../../src/train/settings.js';
import { train, type TrainResult } from '../../src/train/trainer.js';
import { scratchFolder } from './people.js';

const scratch = scratchFolder('tiny-run');
export const at = scratch.at;
export const cleanUp = scratch.remove;

/** As a configuration file has it. */
export const tinyJson = {
  encoder: {
    preset: 'nano',
    vision: {
      hiddenSize: 32,
      intermediateSize: 64,
      numHiddenLayers: 1,
      numAttentionHeads: 2,
      imageSize: 28,
      patchSize: 7,
    },
    tokens: 4,
    width: 32,
    heads: 2,
  },
  decoders: [{ type: 'mtd', patchSize: 7, width: 32, heads: 2, maskRatio: 0.8 }],
  data: {
    kind: 'rendered',
    identities: 6,
    views: 5,
    // Rendered once for all runs.
    cache: at('rendered'),
    heldOut: { identities: 3 },
  },
  sampling: { identities: 2, inputs: 2, targets: 3 },
  optimizer: { learningRate: 1e-3, warmupSteps: 3, emaDecay: 0.9 },
  steps: 12,
  dtype: 'f32',
  threads: 1,
  log: { every: 1, imagesEvery: 6, evaluateEvery: 4, tensorboard: false },
  checkpoints: { every: 3 },
};

/** @param settings as `--set` has them: `steps=3` */
export function tinyConfig(settings: readonly string[] = []): TrainingConfig {
  return parseTrainingConfig(withSettings(tinyJson, settings), 'tiny');
}

let runs = 0;
/** A folder for a run; it is not there yet. */
export const newRun = (): string => at(`run-${runs++}`);

export interface TinyOptions {
  readonly folder?: string;
  readonly resume?: boolean;
  /** Told of every line that is printed. */
  readonly onLine?: (line: string) => void;
  readonly onProgress?: (progress: TrainingProgress) => unknown;
  readonly signal?: AbortSignal;
}

export interface TinyRun {
  readonly folder: string;
  readonly result: TrainResult;
  /** What the console printed. */
  readonly printed: string;
}

export async function run(settings: readonly string[] = [], options: TinyOptions = {}): Promise<TinyRun> {
  const { folder = newRun(), resume = false, onLine, onProgress, signal } = options;
  const config = tinyConfig(settings);
  let printed = '';
  const stream = new Writable({
    write(chunk: Buffer, _encoding, done) {
      printed += chunk.toString();
      onLine?.(chunk.toString());
      done();
    },
  });
  const result = await train(config, {
    runFolder: folder,
    resume,
    output: stream,
    ...(onProgress && { onProgress }),
    ...(signal && { signal }),
  });
  return { folder, result, printed };
}

/** Trains up to a step of a run, and stops there as Ctrl-C does. */
export async function runUntil(
  step: number,
  settings: readonly string[] = [],
  options: TinyOptions = {},
): Promise<TinyRun> {
  const controller = new AbortController();
  return run(settings, {
    ...options,
    signal: controller.signal,
    onProgress: (progress) => {
      if (progress.step === step) controller.abort();
    },
  });
}

export const checkpointPath = (folder: string, step: number): string =>
  join(folder, 'checkpoints', `step-${String(step).padStart(8, '0')}`);

/** A group of a checkpoint's tensors: `values`, `firstMoments`, … */
export async function tensorsOf(
  folder: string,
  step: number,
  group: string,
): Promise<Map<string, Float32Array>> {
  return floatsOf(join(checkpointPath(folder, step), `${group}.safetensors`));
}

/** The tensors of a safetensors file of f32. */
export async function floatsOf(path: string): Promise<Map<string, Float32Array>> {
  return new Map(
    [...(await readSafetensors(path))].map(([name, { data }]) => {
      if (!(data instanceof Float32Array)) throw new Error(`${name} in ${path} is not f32`);
      return [name, data];
    }),
  );
}

/** Of every file under a folder its SHA-256, by path. */
export function hashes(folder: string): Record<string, string> {
  return Object.fromEntries(
    readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .sort()
      .map((path) => [
        path.slice(folder.length + 1),
        createHash('sha256').update(readFileSync(path)).digest('hex'),
      ]),
  );
}

/** What of two runs must be the same, bit for bit: the tensors of their last checkpoint, and the exported model. */
export function assertSameRun(actual: string, expected: string, step: number): void {
  const parts = (folder: string): Record<string, string> => ({
    ...hashes(checkpointPath(folder, step)),
    ...hashes(join(folder, 'model')),
  });
  const [a, b] = [parts(actual), parts(expected)];
  // It holds the configuration, which may differ in what changes no bit.
  delete a['checkpoint.json'];
  delete b['checkpoint.json'];
  const different = [...new Set([...Object.keys(a), ...Object.keys(b)])].filter(
    (name) => a[name] !== b[name],
  );
  if (different.length > 0) throw new Error(`${actual} and ${expected} differ in ${different.join(', ')}`);
  if (!('values.safetensors' in a) || !('model.safetensors' in a))
    throw new Error(`${actual} is not complete`);
}

export const logOf = (folder: string, kind: string): LogEntry[] =>
  readJsonLog(join(folder, 'log.jsonl')).filter((entry) => entry.kind === kind);

/** Numbers of a log's lines. */
export const logged = (folder: string, field: string, kind = 'train'): number[] =>
  logOf(folder, kind).map((entry) => Number(entry[field] ?? NaN));
