import { Option, type Command } from 'commander';
import { datasetInspect, type DatasetInspectCommand } from './dataset_inspect.js';
import { datasetPack, type DatasetPackCommand } from './dataset_pack.js';
import { addRenderCommand } from './dataset_render.js';
import { whole } from '../kinds.js';
import { photoSide } from '../data/training_photo.js';
import { jsonOption, numberOf } from './options.js';

/** `omni-id dataset …`: what is done with training data. */
export function addDatasetCommand(program: Command): void {
  const dataset = program.command('dataset').description('make, pack and inspect training data');

  dataset
    .command('pack')
    .description('pack a folder of identity folders (or other shards) into WebDataset shards')
    .argument('<folder>', 'folder of folders with photos, and face masks NAME.mask.png')
    .requiredOption('--out <dir>', 'folder to write the shards to')
    .option(
      '--size <n>',
      'scale and crop photos to squares of n pixels (default: leave them as they are)',
      numberOf(photoSide),
    )
    .addOption(
      new Option('--encoding <format>', 'of scaled photos; npy needs no decoding (default: npy)').choices([
        'npy',
        'png',
        'jpg',
        'webp',
      ]),
    )
    .option('--shard-bytes <n>', 'bytes at which a shard ends (default: 1 GiB)', numberOf(whole(1)))
    .addOption(jsonOption())
    .action(async (folder: string, options: DatasetPackCommand) => {
      process.exitCode = await datasetPack(folder, options);
    });

  addRenderCommand(dataset);

  dataset
    .command('inspect')
    .description('tell what a data set holds')
    .argument('<folder>', 'folder with .tar shards, or of identity folders')
    .option('--inputs <n>', 'photos that the encoder sees', numberOf(whole(1)), 3)
    .option('--targets <n>', 'photos that are rebuilt', numberOf(whole(1)), 8)
    .option('--check', 'decode every photo')
    .addOption(jsonOption())
    .action(async (folder: string, options: DatasetInspectCommand) => {
      process.exitCode = await datasetInspect(folder, options);
    });
}
