import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { rendererVersion } from '../../src/data/rendered.js';
import { RenderedDataset } from '../../src/data/rendered_dataset.js';
import { renderedPhotos } from '../../src/data/rendered_photos.js';
import { writeShards } from '../../src/data/shard_writer.js';
import { parseTrainingConfig } from '../../src/train/config.js';
import { readJsonLog } from '../../src/train/json_log.js';
import { train } from '../../src/train/trainer.js';
import type { Context } from '../context.js';
import { benchFolder, madeOnce } from '../fixtures.js';
import { optimizer, type TrainingCase } from './cases.js';

/** Steps between two lines of the log, each of which gives a sample. */
const window = 5;

/** Shards as users have them: JPEG photos and PNG masks, of rendered people. Made once. */
export async function shardsFolder(
  size: number,
  { quick, log }: { quick: boolean; log: (message: string) => void },
): Promise<string> {
  const [identities, views] = quick ? [6, 4] : [128, 12];
  const folder = join(benchFolder(), `shards-v${rendererVersion}-${identities}x${views}-${size}px`);
  await madeOnce(folder, async (temporary) => {
    log(`rendering ${identities * views} photos to ${folder}`);
    const photos = renderedPhotos(new RenderedDataset({ identities, views }), size, { encoding: 'jpg' });
    await writeShards(temporary, photos);
  });
  return folder;
}

/** What came of a run of the trainer. */
export interface TrainerRun {
  /** Of every window: seconds of a step, and the share of it in which the engine waited for data. */
  readonly seconds: number[];
  readonly waits: number[];
}

/**
 * The trainer itself, as `omni-id train` runs it, on shards: reading, decoding, mirroring and normalising ahead of the engine. The first window, in which
 * plans are compiled and nothing has been read ahead, does not count.
 */
export async function trainFromShards(
  context: Context,
  one: TrainingCase,
  dtype: 'f32' | 'bf16',
  windows: number,
): Promise<TrainerRun> {
  const { imageSize, patchSize } = one.decoder;
  const runFolder = join(context.folder, `trainer-${one.size}-${dtype}`);
  const steps = window * (windows + 1);
  const config = parseTrainingConfig(
    {
      encoder: one.encoder,
      decoders: [{ type: 'mtd', patchSize }],
      data: {
        kind: 'shards',
        path: await shardsFolder(imageSize, {
          quick: context.settings.quick,
          log: (message) => {
            context.log(message);
          },
        }),
        heldOut: { identities: 0 },
      },
      sampling: { identities: one.identities, inputs: one.inputs, targets: one.targets },
      optimizer: { ...optimizer, warmupSteps: 0, schedule: 'constant' },
      steps,
      dtype,
      device: 'cpu',
      threads: context.settings.threads,
      log: { every: window, imagesEvery: null, evaluateEvery: null, tensorboard: false },
      checkpoints: { every: steps, keepLast: 1, best: false },
    },
    'the benchmark',
  );
  await train(config, { runFolder, output: null });
  const lines = readJsonLog(join(runFolder, 'log.jsonl')).filter(({ kind }) => kind === 'train');
  await rm(runFolder, { recursive: true });
  const numbers = (field: string): number[] => lines.slice(1).map((line) => Number(line[field]));
  return {
    seconds: numbers('identitiesPerSecond').map((perSecond) => one.identities / perSecond),
    waits: numbers('dataWait'),
  };
}
