/** Normal random numbers from a seed (Box–Muller over a linear congruential generator): for test inputs. */
export class NormalNumbers {
  #state: bigint;

  constructor(seed: number) {
    this.#state = BigInt(seed) * 2862933555777941757n + 3037000493n;
  }

  uniform(): number {
    this.#state = (this.#state * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn;
    return Number(this.#state >> 11n) / 2 ** 53;
  }

  next(): number {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }

  array(count: number): Float64Array {
    return Float64Array.from({ length: count }, () => this.next());
  }
}
