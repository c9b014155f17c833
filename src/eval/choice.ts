import type { IdentityDataset } from '../data/dataset.js';
import { heldOutSeed } from '../data/rendered.js';
import type { HeldOutRecord } from '../io/held_out_record.js';
import type { settingsOf } from './settings.js';
import { counted } from '../text.js';

/** Whom an evaluation may choose from, and why them. */
export interface Choice {
  /**
   * `seeds`: rendered people; `training`: those that training says it has held out; `last`: the last ones of a data set, as training takes them
   * by default, where it does not say.
   */
  readonly by: 'seeds' | 'training' | 'last';
  /** Their numbers in the data set, in order. Undefined: all. */
  readonly identities: readonly number[] | undefined;
  /** Reasons to think that some of them were trained on. */
  readonly cautions: readonly string[];
}

interface Seeds {
  readonly firstSeed: number;
  readonly identities: number;
}

const overlap = (a: Seeds, b: Seeds): boolean =>
  a.firstSeed < b.firstSeed + b.identities && b.firstSeed < a.firstSeed + a.identities;
const range = ({ firstSeed, identities }: Seeds): string => `${firstSeed} to ${firstSeed + identities - 1}`;

function ofSeeds(record: HeldOutRecord | undefined, settings: ReturnType<typeof settingsOf>): Choice {
  const { firstSeed, identities, probe } = settings;
  const cautions: string[] = [];
  if (record?.kind === 'rendered') {
    const used: [string, Seeds][] = [['people to rebuild', { firstSeed, identities }]];
    if (probe) {
      const people = { firstSeed: probe.firstSeed, identities: probe.trainPeople + probe.testPeople };
      used.push(['people of the probe', people]);
    }
    for (const [what, seeds] of used) {
      if (!overlap(seeds, record.trained)) continue;
      cautions.push(
        `${what} have the seeds ${range(seeds)}, of which some were trained on: ${range(record.trained)}`,
      );
    }
  } else if (!record && firstSeed < heldOutSeed) {
    cautions.push(`people of seeds below ${heldOutSeed} may have been trained on`);
  }
  return { by: 'seeds', identities: undefined, cautions };
}

function ofStored(record: HeldOutRecord | undefined, dataset: IdentityDataset): Choice {
  const all = Array.from({ length: dataset.identities }, (_, identity) => dataset.identityName(identity));
  const last = (...cautions: string[]): Choice => ({ by: 'last', identities: undefined, cautions });
  if (!record) return last();
  if (record.kind === 'rendered') {
    // The names that `omni-id dataset render` gives are seeds.
    const { firstSeed, identities } = record.trained;
    const seen = all.filter((name) => /^\d+$/.test(name) && Number(name) >= firstSeed && Number(name) < firstSeed + identities); // prettier-ignore
    return seen.length === 0
      ? last()
      : last(
          `${counted(seen.length, 'person')} of ${dataset.name} with names like seeds that were trained on: ${range(record.trained)}`,
        );
  }
  const { names, ofAnotherDataset } = record;
  if (names.length === 0)
    return last(`training held nobody out: the last people of ${dataset.name} may have been trained on`);
  const wanted = new Set(names);
  const found = all.flatMap((name, identity) => (wanted.has(name) ? [identity] : []));
  const whence = ofAnotherDataset ? ' (of another data set than it trained on)' : '';
  if (found.length === 0) {
    return last(
      `of ${counted(names.length, 'person')} that training held out${whence}, none can be found in ${dataset.name}: its last people may have been trained on`,
    );
  }
  const missing = names.length - found.length;
  const cautions =
    missing > 0
      ? [`of ${counted(names.length, 'person')} that training held out${whence}, ${missing} cannot be found in ${dataset.name}`] // prettier-ignore
      : [];
  return { by: 'training', identities: found, cautions };
}

/** Chooses whom to judge by: people that training has not seen, as far as that is known. */
export function choiceOf(
  record: HeldOutRecord | undefined,
  dataset: IdentityDataset,
  settings: ReturnType<typeof settingsOf>,
): Choice {
  return settings.data.kind === 'rendered' ? ofSeeds(record, settings) : ofStored(record, dataset);
}
