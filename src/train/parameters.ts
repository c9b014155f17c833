import type { NativeTensor } from '../bindings.js';
import type { Parameter } from '../graph/graph.js';
import type { Session } from '../graph/session.js';

/** Where a parameter lies in the vector of all of them. */
export interface Slot {
  readonly name: string;
  readonly shape: readonly number[];
  readonly offset: number;
  readonly count: number;
}

/** Parameters begin at cache lines: 16 floats. */
const alignment = 16;

const elements = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1);

/**
 * All parameters of a run in one vector, and so their gradients and moments: the optimizer passes over them once. Parameters that are read
 * together (queries, keys and values of an attention) lie behind each other without a gap, so that together they are one matrix.
 */
export class ParameterLayout {
  readonly slots: readonly Slot[];
  /** Floats of the vector, with the gaps between parameters. */
  readonly size: number;
  readonly #places = new Map<string, number>();

  constructor(parameters: readonly Parameter[]) {
    const slots = new Map<string, Slot>();
    let end = 0;
    for (const { names, shape } of parameters) {
      const offset = Math.ceil(end / alignment) * alignment;
      const part = [(shape[0] ?? 1) / names.length, ...shape.slice(1)];
      const count = elements(part);
      for (const [i, name] of names.entries()) {
        if (slots.has(name)) throw new Error(`parameter ${name} is read in two ways`);
        slots.set(name, { name, shape: part, offset: offset + i * count, count });
      }
      end = offset + count * names.length;
      this.#places.set(names.join('+'), offset);
    }
    this.slots = [...slots.values()];
    this.size = Math.ceil(end / alignment) * alignment;
  }

  /** Element of the vector where the parameters of these names begin. */
  place(names: readonly string[]): number {
    const place = this.#places.get(names.join('+'));
    if (place === undefined) throw new Error(`there are no parameters ${names.join(', ')}`);
    return place;
  }
}

/** The vectors that a run's state consists of. */
export type StateVector = 'values' | 'firstMoments' | 'secondMoments' | 'average';

/**
 * The parameters of a run and what the optimizer keeps of each, on the device: values, gradients, two moments, and the moving average when there
 * is one. Memory: 16 bytes a parameter, 20 with an average.
 */
export class TrainingState {
  readonly values: NativeTensor;
  readonly gradients: NativeTensor;
  readonly firstMoments: NativeTensor;
  readonly secondMoments: NativeTensor;
  readonly average: NativeTensor | undefined;

  constructor(
    session: Session,
    readonly layout: ParameterLayout,
    options: { average: boolean },
  ) {
    const zeros = new Float32Array(Math.min(layout.size, 1 << 20));
    const vector = (): NativeTensor => {
      const tensor = session.tensor({ dtype: 'f32', shape: [layout.size] });
      for (let at = 0; at < layout.size; at += zeros.length) {
        tensor.write(zeros.subarray(0, Math.min(zeros.length, layout.size - at)), at);
      }
      return tensor;
    };
    this.values = vector();
    this.gradients = vector();
    this.firstMoments = vector();
    this.secondMoments = vector();
    this.average = options.average ? vector() : undefined;
  }

  get vectors(): readonly StateVector[] {
    return ['values', 'firstMoments', 'secondMoments', ...(this.average ? (['average'] as const) : [])];
  }

  /** A copy of a parameter's part of a vector. */
  read(which: StateVector | 'gradients', slot: Slot): Float32Array {
    return this.#vector(which).read(slot.offset, slot.count) as Float32Array;
  }

  write(which: StateVector, slot: Slot, values: Float32Array): void {
    this.#vector(which).write(values, slot.offset);
  }

  dispose(): void {
    for (const which of [...this.vectors, 'gradients'] as const) this.#vector(which).dispose();
  }

  #vector(which: StateVector | 'gradients'): NativeTensor {
    const tensor = this[which];
    if (!tensor) throw new Error(`this run keeps no ${which}`);
    return tensor;
  }
}
