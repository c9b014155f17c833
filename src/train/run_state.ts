import { FormatError } from '../errors.js';
import type { StoredCheckpoint } from './checkpoint_folder.js';
import type { Checkpoints } from './checkpoints.js';
import type { TrainingConfig } from './config.js';
import type { TrainingEngine } from './engine.js';
import { readWeight, type RunWeight } from './initial_weights.js';
import type { Slot, StateVector } from './parameters.js';
import type { DataFingerprint } from './run_data.js';

/** Where a run stands. */
export interface RunProgress {
  /** Steps that have been made, those that were skipped too. */
  step: number;
  /** Steps that changed the parameters. */
  updates: number;
  /** Steps that were skipped because a loss or gradient was not finite. */
  skipped: number;
  /** Those of them that were the last steps. */
  skippedInARow: number;
  /** The last that was measured. */
  heldOutLoss: number | undefined;
  /** The step that it was measured at: only that step's checkpoint can be the best one for it. */
  heldOutStep: number | undefined;
  /** The step of the last checkpoint. */
  savedStep: number | undefined;
}

/** What a checkpoint's document holds of a run. */
interface RunState {
  readonly config: unknown;
  readonly updates: number;
  readonly skipped: number;
  /** Absent in checkpoints of before it was saved. */
  readonly skippedInARow?: number;
  /** Of the data that it was trained on; absent likewise. */
  readonly data?: DataFingerprint;
}

/** Weights that are not trained: the state's vectors do not have them. */
export const fixedGroup = 'fixed';

/** The configuration that a checkpoint was made with, as JSON. */
export function configOf(stored: StoredCheckpoint): unknown {
  return (stored.state as RunState).config;
}

/** What a checkpoint's run was trained on; undefined in checkpoints of before it was saved. */
export function dataOf(stored: StoredCheckpoint): DataFingerprint | undefined {
  return (stored.state as RunState).data;
}

/** Saves everything that a run goes on from. See {@link Checkpoints.save}. */
export async function saveRun(
  checkpoints: Checkpoints,
  config: TrainingConfig,
  engine: TrainingEngine,
  weights: readonly RunWeight[],
  data: DataFingerprint,
  { step, updates, skipped, skippedInARow, heldOutLoss, heldOutStep }: RunProgress,
): Promise<void> {
  const group = (vector: StateVector) =>
    engine.layout.slots.map((slot) => ({
      name: slot.name,
      shape: slot.shape,
      read: (first: number, count: number) =>
        engine.state.read(vector, { ...slot, offset: slot.offset + first, count }),
    }));
  const fixed = weights
    .filter(({ slot }) => slot === undefined)
    .map(({ name, shape }) => ({
      name,
      shape,
      read: (first: number, count: number) => readWeight(engine.session.weights, name, first, count),
    }));
  const state: RunState = { config, updates, skipped, skippedInARow, data };
  await checkpoints.save({
    step,
    heldOutLoss: heldOutStep === step ? heldOutLoss : undefined,
    state,
    tensors: {
      ...Object.fromEntries(engine.state.vectors.map((vector) => [vector, group(vector)])),
      ...(fixed.length > 0 ? { [fixedGroup]: fixed } : {}),
    },
  });
}

/**
 * Gives a run all of its weights and its optimizer's state as they were.
 * @throws {FormatError} `ERR_FORMAT` when the checkpoint's tensors are not those of the run; {FileError} `ERR_FILE`
 */
export async function restoreRun(
  stored: StoredCheckpoint,
  engine: TrainingEngine,
  weights: readonly RunWeight[],
): Promise<RunProgress> {
  const trained = new Map<string, RunWeight & { readonly slot: Slot }>();
  const fixed = new Map<string, RunWeight>();
  for (const weight of weights) {
    if (weight.slot) trained.set(weight.name, { ...weight, slot: weight.slot });
    else fixed.set(weight.name, weight);
  }
  for (const vector of engine.state.vectors) {
    await eachPiece(stored, vector, trained, ({ slot }, first, values) => {
      engine.state.write(vector, { ...slot, offset: slot.offset + first, count: values.length }, values);
    });
  }
  if (fixed.size > 0) {
    let whole = new Float32Array(0);
    await eachPiece(stored, fixedGroup, fixed, ({ name, shape }, first, values) => {
      if (first === 0) whole = new Float32Array(shape.reduce((product, n) => product * n, 1));
      whole.set(values, first);
      if (first + values.length === whole.length) engine.session.weights.set(name, shape, whole);
    });
  }
  const { updates, skipped, skippedInARow = 0 } = stored.state as RunState;
  const { step, heldOutLoss } = stored;
  return { step, updates, skipped, skippedInARow, heldOutLoss, heldOutStep: step, savedStep: step };
}

/** Calls `take` with the pieces of a group's tensors, which must be those that are expected. */
async function eachPiece<T extends RunWeight>(
  stored: StoredCheckpoint,
  group: string,
  expected: ReadonlyMap<string, T>,
  take: (weight: T, first: number, values: Float32Array) => void,
): Promise<void> {
  const tensors = await stored.tensors(group);
  const problems: string[] = [];
  for (const [name, { shape }] of expected) {
    const there = tensors.get(name)?.shape.join(' × ');
    const wanted = shape.join(' × ');
    if (there !== wanted) problems.push(`${name} is ${there ?? 'not there'}, expected ${wanted}`);
  }
  for (const name of tensors.keys()) if (!expected.has(name)) problems.push(`${name} is not of this run`);
  if (problems.length > 0)
    throw new FormatError(`${stored.path(group)} does not fit this run: ${problems.join('; ')}`);
  for await (const { name, first, values } of stored.pieces(group)) {
    const weight = expected.get(name);
    if (weight) take(weight, first, values);
  }
}
