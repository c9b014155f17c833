import { check, seed as anySeed } from '../kinds.js';

/** High 32 bits of a 64-bit product, in halves that doubles hold exactly. */
function highProduct(a: number, b: number): number {
  const [aHigh, aLow, bHigh, bLow] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff];
  const middle = aHigh * bLow + Math.floor((aLow * bLow) / 65536);
  const other = aLow * bHigh + (middle % 65536);
  return (aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(other / 65536)) >>> 0;
}

/** Four words of 32 bits. */
export type Words4 = readonly [number, number, number, number];

/**
 * Philox 4x32-10, a counter-based generator, as in native/base/philox.h: the numbers at a counter depend on nothing but counter and key.
 * Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
 */
export function philox4x32(counter: Words4, key: readonly [number, number]): Words4 {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const high0 = highProduct(0xd2511f53, c0);
    const high1 = highProduct(0xcd9e8d57, c2);
    [c0, c1, c2, c3] = [
      (high1 ^ c1 ^ k0) >>> 0,
      Math.imul(0xcd9e8d57, c2) >>> 0,
      (high0 ^ c3 ^ k1) >>> 0,
      Math.imul(0xd2511f53, c0) >>> 0,
    ];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/**
 * What a stream of random numbers is for, so that no two are the same. The numbers are part of what a seed means: never
 * change one.
 */
export const purposes = {
  epoch: 1,
  inputCount: 2,
  inputs: 3,
  targets: 4,
  flips: 5,
  visible: 6,
  replacedPhoto: 7,
} as const;

export type Purpose = keyof typeof purposes;

/** The random numbers for one purpose at one place of a run. They depend on nothing but the arguments of the constructor. */
export class PhiloxStream {
  readonly #key: readonly [number, number];
  #block = 0;
  #words: Words4 = [0, 0, 0, 0];
  #used = 4;

  /**
   * @param seed a whole number from 0 to 2^53 − 1
   * @param place.step training step, or epoch
   * @param place.slot identity within the step
   * @param place.item photo within the identity, below 2^24
   */
  constructor(
    seed: number,
    private readonly purpose: Purpose,
    private readonly place: { readonly step: number; readonly slot?: number; readonly item?: number },
  ) {
    check('the seed', seed, anySeed);
    this.#key = [seed >>> 0, Math.floor(seed / 2 ** 32)];
  }

  /** 0 to 2^32 − 1. */
  next(): number {
    if (this.#used === 4) {
      const { step, slot = 0, item = 0 } = this.place;
      const what = (purposes[this.purpose] | (item << 8)) >>> 0;
      this.#words = philox4x32([this.#block++, what, slot, step >>> 0], this.#key);
      this.#used = 0;
    }
    return this.#words[this.#used++] ?? 0;
  }

  /** 0 to n − 1, all alike: what would favour the first of them is thrown away. */
  below(n: number): number {
    const limit = 2 ** 32 - (2 ** 32 % n);
    let value = this.next();
    while (value >= limit) value = this.next();
    return value % n;
  }

  /** From 0, below 1. */
  uniform(): number {
    return this.next() / 2 ** 32;
  }

  /** `count` different numbers from 0 to n − 1 in random order: the first steps of Fisher and Yates' shuffle. */
  choose(n: number, count: number): Uint32Array {
    const numbers = Uint32Array.from({ length: n }, (_, i) => i);
    for (let i = 0; i < count; i++) {
      const j = i + this.below(n - i);
      [numbers[i], numbers[j]] = [numbers[j] ?? 0, numbers[i] ?? 0];
    }
    return numbers.subarray(0, count);
  }

  /** `count` numbers from 0 to n − 1, of which none comes again before all others have come as often. */
  chooseAgain(n: number, count: number): number[] {
    const chosen: number[] = [];
    while (chosen.length < count) chosen.push(...this.choose(n, Math.min(n, count - chosen.length)));
    return chosen;
  }
}
