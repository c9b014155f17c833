import { ArgumentError } from '../errors.js';
import { check, field, seed, whole } from '../kinds.js';
import { checked, options } from '../options.js';
import type { IdentityDataset } from './dataset.js';
import { mostPeople, mostViews, renderFace, type RenderedPhoto } from './rendered.js';
import { viewFields, type ViewOptions } from './view_options.js';
import { counted } from '../text.js';

export interface RenderedDatasetOptions extends ViewOptions {
  /** How many people there are: at least 1. */
  readonly identities: number;
  /** Photos of each: at least 1. */
  readonly views: number;
  /** Seed of the first person; the others follow it. From `heldOutSeed` on they are held out by convention. Default: 0. */
  readonly firstSeed?: number | undefined;
  /** Number of the first view: other views of the same people. Default: 0. */
  readonly firstView?: number | undefined;
}

export const peopleCount = whole(1, mostPeople, 'people are listed in memory');
export const viewCount = whole(1, mostViews, 'the views of a person are listed in memory');

const schema = options({
  ...viewFields,
  identities: field(peopleCount),
  views: field(viewCount),
  firstSeed: field(seed).optional(),
  firstView: field(seed).optional(),
});

/** A range of rendered people, each in the same number of views, as a data set that takes no space: photos are drawn when they are read. */
export class RenderedDataset implements IdentityDataset {
  readonly name: string;
  readonly identities: number;
  /** Seed of the first person. */
  readonly firstSeed: number;
  readonly firstView: number;
  readonly #views: number;
  readonly #chosen: ViewOptions;

  /** @throws {ArgumentError} `ERR_INVALID_ARGUMENT` naming every option that is unknown or wrong */
  constructor(given: RenderedDatasetOptions) {
    const { identities, views, firstSeed = 0, firstView = 0, ...chosen } = checked('RenderedDataset', schema, given); // prettier-ignore
    for (const [what, first, count] of [
      ['seeds of people', firstSeed, identities],
      ['numbers of views', firstView, views],
    ] as const) {
      if (!Number.isSafeInteger(first + count))
        throw new ArgumentError(
          `${what} go from ${first} to ${first + count - 1}, expected at most 2^53 − 1`,
        );
    }
    this.identities = identities;
    this.firstSeed = firstSeed;
    this.firstView = firstView;
    this.#views = views;
    this.#chosen = chosen;
    const how = Object.entries(chosen).map(([name, value]) => `, ${name} ${JSON.stringify(value)}`);
    this.name = `rendered ${firstSeed} to ${firstSeed + identities - 1}, ${counted(views, 'view')}${how.join('')}`;
  }

  photos(identity: number): number {
    this.#check('identity', identity, this.identities);
    return this.#views;
  }

  /** The person's seed. */
  identityName(identity: number): string {
    return String(this.firstSeed + this.#check('identity', identity, this.identities));
  }

  /** @throws {ArgumentError} `ERR_INVALID_ARGUMENT` */
  async read(identity: number, photo: number, size: number): Promise<RenderedPhoto> {
    return renderFace({
      ...this.#chosen,
      identity: this.firstSeed + this.#check('identity', identity, this.identities),
      view: this.firstView + this.#check('photo', photo, this.#views),
      size,
    });
  }

  /** Nothing is open. */
  close(): Promise<void> {
    return Promise.resolve();
  }

  #check(what: string, index: number, count: number): number {
    check(what, index, whole(0, count - 1, this.name));
    return index;
  }
}
