import { Option, type Command } from 'commander';
import { heldOutSeed, mostRenderedPixels } from '../data/rendered.js';
import { peopleCount, RenderedDataset, viewCount } from '../data/rendered_dataset.js';
import { openRenderedFolder, writeRenderedFolder } from '../data/rendered_folder.js';
import { renderedPhotos, type RenderedEncoding } from '../data/rendered_photos.js';
import { checkPackedPhotos, writeShards } from '../data/shard_writer.js';
import { seed, whole } from '../kinds.js';
import { defined } from '../options.js';
import { addViewOptions, jsonOption, numberOf, viewOptions, type ViewCommand } from './options.js';
import { exitCodes, interruptSignal, printJson, progressBar, warn } from './output.js';
import { counted } from '../text.js';

export interface DatasetRenderCommand extends ViewCommand {
  readonly identities: number;
  readonly views: number;
  readonly size: number;
  readonly out: string;
  readonly firstSeed: number;
  readonly firstView: number;
  readonly encoding: RenderedEncoding;
  readonly format: 'folder' | 'shards';
  readonly json?: boolean;
}

/** `omni-id dataset render`: people and views from seeds, as a data set on disk. */
export async function datasetRender(options: DatasetRenderCommand): Promise<number> {
  const { identities, views, size, out, firstSeed, firstView, encoding, format } = options;
  const view = viewOptions(options);
  const dataset = new RenderedDataset({ identities, views, firstSeed, firstView, ...view });
  if (format === 'shards') checkPackedPhotos(identities * views);
  if (firstSeed < heldOutSeed && firstSeed + identities > heldOutSeed) {
    warn(
      `seeds from ${heldOutSeed} on are held out by convention; ${firstSeed} to ${firstSeed + identities - 1} are both`,
    );
  }
  const signal = interruptSignal();
  const there =
    format === 'folder'
      ? await openRenderedFolder(out, { views, size, ...defined(view), firstView, encoding })
      : new Set<string>();
  let kept = 0;
  for (let i = 0; i < identities; i++) if (there.has(dataset.identityName(i))) kept++;
  const total = (identities - kept) * views;
  const bar = progressBar('rendering');
  const started = performance.now();
  let done = 0;
  const photos = renderedPhotos(dataset, size, { encoding, skip: there, signal });
  const onPhoto = (): void => {
    bar.update(++done, total);
  };
  await (
    format === 'folder'
      ? writeRenderedFolder(out, photos, onPhoto)
      : writeShards(out, photos, { signal, onPhoto })
  ).finally(() => {
    bar.stop();
  });
  const seconds = (performance.now() - started) / 1000;
  if (options.json === true) {
    printJson({ out, identities, views, size, firstSeed, firstView, ...defined(view), encoding, format, photos: done, keptIdentities: kept, seconds }); // prettier-ignore
  } else {
    console.log(
      `${out}: ${counted(done, 'photo')} of ${counted(identities - kept, 'person')}, seeds ${firstSeed} to ${firstSeed + identities - 1}` +
        (kept > 0 ? `, besides ${counted(kept, 'person')} already there` : '') +
        ` (${(done / Math.max(seconds, 1e-3)).toFixed(0)} photos/s)`,
    );
  }
  return exitCodes.ok;
}

/** Adds `render` to `omni-id dataset`. */
export function addRenderCommand(dataset: Command): void {
  addViewOptions(dataset.command('render'))
    .description('render people from a face model: photos with masks, pose, landmarks and coefficients')
    .option('--identities <n>', 'how many people', numberOf(peopleCount), 2000)
    .option('--views <n>', 'photos of each', numberOf(viewCount), 12)
    .option('--size <n>', 'width and height in pixels', numberOf(whole(1, mostRenderedPixels)), 112)
    .requiredOption('--out <dir>', 'folder to write; identity folders that were interrupted are gone on with')
    .option(
      '--first-seed <n>',
      `seed of the first person; from ${heldOutSeed} on they are held out by convention`,
      numberOf(seed),
      0,
    )
    .option('--first-view <n>', 'number of the first view', numberOf(seed), 0)
    .addOption(
      new Option('--encoding <format>', 'of the photos').choices(['png', 'jpg', 'webp']).default('png'),
    )
    .addOption(
      new Option('--format <form>', 'identity folders, or WebDataset tar shards')
        .choices(['folder', 'shards'])
        .default('folder'),
    )
    .addOption(jsonOption())
    .action(async (options: DatasetRenderCommand) => {
      process.exitCode = await datasetRender(options);
    });
}
