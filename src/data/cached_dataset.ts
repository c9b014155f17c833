import type { IdentityDataset, TrainingPhoto } from './dataset.js';

/**
 * Keeps decoded photos in memory, so that a small data set is decoded once. What has come in stays: photos are drawn at random
 * all over the set, and of those that do not fit, none is likelier to come again than those that are there.
 */
export class CachedDataset implements IdentityDataset {
  readonly #photos = new Map<string, TrainingPhoto>();
  #bytes = 0;

  /** @param cacheBytes most bytes of pixels and masks that are kept */
  constructor(
    private readonly dataset: IdentityDataset,
    private readonly cacheBytes: number,
  ) {}

  get name(): string {
    return this.dataset.name;
  }

  get identities(): number {
    return this.dataset.identities;
  }

  /** Bytes of pixels and masks that are kept now. */
  get cachedBytes(): number {
    return this.#bytes;
  }

  photos(identity: number): number {
    return this.dataset.photos(identity);
  }

  identityName(identity: number): string {
    return this.dataset.identityName(identity);
  }

  async read(identity: number, photo: number, size: number): Promise<TrainingPhoto> {
    const key = `${identity} ${photo} ${size}`;
    const kept = this.#photos.get(key);
    if (kept) return kept;
    const read = await this.dataset.read(identity, photo, size);
    const bytes = read.pixels.byteLength + (read.mask?.byteLength ?? 0);
    if (!this.#photos.has(key) && this.#bytes + bytes <= this.cacheBytes) {
      this.#photos.set(key, read);
      this.#bytes += bytes;
    }
    return read;
  }

  async close(): Promise<void> {
    this.#photos.clear();
    this.#bytes = 0;
    await this.dataset.close();
  }
}
