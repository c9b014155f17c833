import type { UnreadablePhoto } from '../data/check_dataset.js';
import { openDataset } from '../data/open_dataset.js';
import type { PhotoEncoding } from '../data/encode_square.js';
import { photosToPack } from '../data/pack.js';
import { checkPackedPhotos, writeShards } from '../data/shard_writer.js';
import { ArgumentError } from '../errors.js';
import { liesIn } from '../io/files.js';
import { exitCodes, interruptSignal, printJson, progressBar, warn } from './output.js';
import { counted } from '../text.js';

export interface DatasetPackCommand {
  readonly out: string;
  readonly size?: number;
  readonly encoding?: PhotoEncoding;
  readonly shardBytes?: number;
  readonly json?: boolean;
}

/** Photos that are named when they cannot be used. */
export const problemsShown = 20;

/** Says which photos cannot be used, the first of them by name. */
export function warnOf(problems: readonly UnreadablePhoto[]): void {
  for (const { error } of problems.slice(0, problemsShown)) warn(`cannot be used: ${error.message}`);
  if (problems.length > problemsShown)
    warn(`… and ${counted(problems.length - problemsShown, 'more photo')}`);
}

/** `omni-id dataset pack`: a data set as WebDataset shards. Photos that cannot be decoded are reported and left out. */
export async function datasetPack(folder: string, options: DatasetPackCommand): Promise<number> {
  if (options.encoding !== undefined && options.size === undefined) {
    throw new ArgumentError('--encoding without --size: photos keep their encoding unless they are scaled');
  }
  if (liesIn(options.out, folder)) {
    throw new ArgumentError(
      `--out ${options.out}: expected a folder that is not in that of the photos, ${folder}`,
    );
  }
  const signal = interruptSignal();
  const dataset = await openDataset(folder);
  const bad: UnreadablePhoto[] = [];
  const bar = progressBar('packing');
  try {
    let total = 0;
    for (let i = 0; i < dataset.identities; i++) total += dataset.photos(i);
    checkPackedPhotos(total);
    const { encoding = 'npy', size } = options;
    const photos = photosToPack(dataset, {
      size,
      encoding,
      onUnreadable: (problem) => bad.push(problem),
    });
    const written = await writeShards(options.out, photos, {
      shardBytes: options.shardBytes,
      signal,
      onPhoto: (count) => {
        bar.update(count + bad.length, total);
      },
    }).finally(() => {
      bar.stop();
    });
    warnOf(bad);
    if (options.json === true) {
      printJson({
        out: options.out,
        ...written,
        ...(size === undefined ? {} : { size, encoding }),
        failed: bad.map(({ identity, error }) => ({
          identity: dataset.identityName(identity),
          code: error.code,
          message: error.message,
        })),
      });
    } else {
      const { identities, shards, bytes } = written;
      console.log(
        `${options.out}: ${counted(written.photos, 'photo')} of ${counted(identities, 'identity')} in ${counted(shards.length, 'shard')} (${(bytes / 1e6).toFixed(1)} MB)`,
      );
    }
    return bad.length > 0 ? exitCodes.failed : exitCodes.ok;
  } finally {
    await dataset.close();
  }
}
