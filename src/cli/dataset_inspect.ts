import { unreadablePhotos } from '../data/check_dataset.js';
import { inspectDataset, type DatasetSummary } from '../data/inspect.js';
import { openDataset } from '../data/open_dataset.js';
import { warnOf } from './dataset_pack.js';
import { exitCodes, interruptSignal, printJson, progressBar } from './output.js';
import { counted } from '../text.js';

export interface DatasetInspectCommand {
  readonly inputs: number;
  readonly targets: number;
  readonly check?: boolean;
  readonly json?: boolean;
}

/** Rows of a list that are printed. */
const rowsShown = 10;

/** Photos per identity in at most `rowsShown` rows: neighbouring numbers share one where there are more. */
function histogram({
  photosPerIdentity,
}: Pick<DatasetSummary, 'photosPerIdentity'>): { label: string; identities: number }[] {
  const least = photosPerIdentity[0]?.photos ?? 0;
  const most = photosPerIdentity.at(-1)?.photos ?? 0;
  const width = Math.ceil((most - least + 1) / rowsShown);
  const rows: { label: string; identities: number }[] = [];
  for (let from = least; from <= most; from += width) {
    const to = Math.min(most, from + width - 1);
    const inside = photosPerIdentity.filter(({ photos }) => photos >= from && photos <= to);
    const identities = inside.reduce((sum, row) => sum + row.identities, 0);
    if (identities > 0) rows.push({ label: from === to ? String(from) : `${from} to ${to}`, identities });
  }
  return rows;
}

function print(summary: Omit<DatasetSummary, 'brokenAtFirstSight'>, short: number, needed: string): void {
  const { name, identities, photos, maskShare, sizes, sizesOf } = summary;
  console.log(`${name}: ${counted(identities, 'identity')}, ${counted(photos, 'photo')}`);
  console.log('photos per identity:');
  for (const row of histogram(summary)) {
    const bar = '█'.repeat(Math.max(1, Math.round((40 * row.identities) / identities)));
    console.log(`  ${row.label.padStart(12)}  ${bar} ${row.identities}`);
  }
  console.log(`face masks: ${(100 * maskShare).toFixed(1)} % of the photos`);
  const share = sizesOf === photos ? '' : ` (of ${counted(sizesOf, 'photo')} looked at)`;
  const shown = sizes.slice(0, rowsShown).map((size) => `${size.width} × ${size.height} (${size.photos})`);
  const more = sizes.length > rowsShown ? `, and ${sizes.length - rowsShown} more` : '';
  console.log(`sizes${share}: ${shown.join(', ')}${more}`);
  console.log(
    short === 0
      ? `all identities have enough photos for ${needed}`
      : `identities with too few photos for ${needed}: ${short} of ${identities}; theirs are drawn several times in a step`,
  );
}

/** `omni-id dataset inspect`: what a data set holds, and whether all of it can be read. */
export async function datasetInspect(folder: string, options: DatasetInspectCommand): Promise<number> {
  const { inputs, targets } = options;
  const signal = interruptSignal();
  const dataset = await openDataset(folder);
  try {
    const { brokenAtFirstSight, ...summary } = await inspectDataset(dataset, signal);
    const enough = Math.max(inputs, targets);
    const short = summary.photosPerIdentity
      .filter(({ photos }) => photos < enough)
      .reduce((sum, row) => sum + row.identities, 0);
    const bar = progressBar('checking');
    const onProgress = (done: number, total: number): void => {
      bar.update(done, total);
    };
    const checked = options.check === true;
    const bad = checked
      ? await unreadablePhotos(dataset, { signal, onProgress }).finally(() => {
          bar.stop();
        })
      : brokenAtFirstSight;
    if (options.json === true) {
      printJson({
        ...summary,
        inputs,
        targets,
        shortOfPhotos: short,
        checked,
        unreadable: bad.map(({ identity, photo, error }) => ({
          identity: dataset.identityName(identity),
          photo,
          code: error.code,
          message: error.message,
        })),
      });
    } else {
      print(summary, short, `${counted(inputs, 'input')} and ${counted(targets, 'target')}`);
      const cannot = `${counted(bad.length, 'photo')} cannot be read`;
      if (checked) console.log(bad.length === 0 ? 'all photos can be read' : cannot);
      else {
        const seen = bad.length === 0 ? '' : `${cannot} of the ${summary.sizesOf + bad.length} that were looked at; `; // prettier-ignore
        console.log(`${seen}photos were not decoded: --check decodes all of them`);
      }
    }
    warnOf(bad);
    return bad.length > 0 ? exitCodes.failed : exitCodes.ok;
  } finally {
    await dataset.close();
  }
}
