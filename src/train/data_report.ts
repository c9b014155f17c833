import type { IdentityDataset } from '../data/dataset.js';
import { messageOf } from '../errors.js';
import type { PhotoProblem } from './batch_loader.js';
import type { TrainingConsole } from './console.js';
import type { FewToManySampler } from './few_to_many.js';
import type { TrainingLogs } from './logs.js';
import { counted } from '../text.js';

/** Photos that the console names; the log has all of them. */
const notedAtMost = 20;
/** Identities that are named in a message. */
const namedAtMost = 5;

/** What of a run's data could not be used, or not as it should: on the console, and in the log by name. */
export class DataReport {
  readonly #photos = new Set<string>();

  constructor(
    private readonly logs: TrainingLogs,
    private readonly console: TrainingConsole,
  ) {}

  /** Photos that could not be read, of all data sets. */
  get unreadablePhotos(): number {
    return this.#photos.size;
  }

  /** A photo that could not be read; the same one counts once. @param step steps that have been made */
  unreadable(step: number, set: 'training' | 'held-out', problem: PhotoProblem): void {
    const { identityName: identity, photo, error } = problem;
    const key = `${set} ${problem.identity} ${photo}`;
    if (this.#photos.has(key)) return;
    this.#photos.add(key);
    const reason = messageOf(error);
    this.logs.event(step, 'unreadable', { set, identity, photo, reason });
    if (this.#photos.size <= notedAtMost) this.console.note(`a ${set} photo is left out: ${reason}`);
    if (this.#photos.size === notedAtMost)
      this.console.note('more of them are only counted, and named in the log');
  }

  /** Says which identities have too few photos for a step, and whether there are too few identities. */
  shortages(step: number, dataset: IdentityDataset, sampler: FewToManySampler, perStep: number): void {
    if (perStep > dataset.identities) {
      const { identities } = dataset;
      this.console.note(
        `a step has ${counted(perStep, 'identity')}, the data set ${identities}: some come several times in a step`,
      );
      this.logs.event(step, 'short_of_identities', { identities, perStep });
    }
    const short = sampler.shortOfPhotos.map((identity) => dataset.identityName(identity));
    if (short.length === 0) return;
    const { photosPerIdentity: expected } = sampler;
    const names = short.slice(0, namedAtMost).join(', ');
    const more = short.length > namedAtMost ? ', …' : '';
    this.console.note(
      `identities with fewer photos than the ${expected} of a step: ${short.length} of ${dataset.identities}, some of their photos come several times in it: ${names}${more}`,
    );
    this.logs.event(step, 'short_of_photos', { identities: short, expected });
  }

  /** What the end of a run says of it; undefined when all is well. */
  summary(): string | undefined {
    const count = this.#photos.size;
    if (count === 0) return undefined;
    return `${counted(count, 'photo')} could not be read and ${count === 1 ? 'was' : 'were'} left out (log.jsonl names them)`;
  }
}
