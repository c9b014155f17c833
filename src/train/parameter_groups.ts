import picomatch from 'picomatch';
import { ConfigError } from '../errors.js';

/** How a parameter is trained. */
export interface ParameterRole {
  readonly frozen: boolean;
  /** Whether weight decay applies. */
  readonly decay: boolean;
  /** Which learning rate it follows. */
  readonly group: 'backbone' | 'new';
}

/** What the configuration says about parameters: globs over whole names, in which `*` matches dots too. */
export interface ParameterPatterns {
  readonly frozen: readonly string[];
  readonly noDecay: readonly string[];
}

/** The vision tower, by the name that the trainer gives it. */
const backbone = 'encoder.vision_model.';

function matcher(patterns: readonly string[]): (name: string) => boolean {
  return patterns.length === 0 ? () => false : picomatch([...patterns], { dot: true });
}

/** Tells for every parameter of a run whether it is trained, decays, and follows which learning rate. */
export class ParameterGroups {
  readonly #patterns: ParameterPatterns;
  readonly #isFrozen: (name: string) => boolean;
  readonly #isSpared: (name: string) => boolean;

  constructor(patterns: ParameterPatterns) {
    this.#patterns = patterns;
    this.#isFrozen = matcher(patterns.frozen);
    this.#isSpared = matcher(patterns.noDecay);
  }

  /** @param name with the trainer's prefix: `encoder.queries`, `encoder.vision_model.…` */
  role(name: string, shape: readonly number[]): ParameterRole {
    return {
      frozen: this.#isFrozen(name),
      // Vectors are norms and biases, whatever they are called.
      decay: shape.length > 1 && !this.#isSpared(name),
      group: name.startsWith(backbone) ? 'backbone' : 'new',
    };
  }

  /**
   * Checks that patterns meet the parameters of a run.
   * @throws {ConfigError} `ERR_CONFIG` naming every pattern of `frozen` that matches none, or when nothing is left to train
   */
  check(names: readonly string[]): void {
    const idle = this.#patterns.frozen.filter((pattern) => !names.some(matcher([pattern])));
    if (idle.length > 0) {
      const like = names.slice(0, 3).join(', ');
      throw new ConfigError(
        `optimizer.frozen: no parameter matches ${idle.map((pattern) => JSON.stringify(pattern)).join(', ')}; names are like ${like}`,
      );
    }
    if (names.every(this.#isFrozen))
      throw new ConfigError('optimizer.frozen matches every parameter: expected something to train');
  }
}
