import { join } from 'node:path';
import { mkdir } from 'node:fs/promises';
import { requireReadable } from '../data/check_dataset.js';
import { FileError, messageOf, NumericError } from '../errors.js';
import { writeFileAtomically } from '../io/atomic_file.js';
import { BatchLoader } from './batch_loader.js';
import type { StoredCheckpoint } from './checkpoint_folder.js';
import { Checkpoints } from './checkpoints.js';
import { checkResumable, type TrainingConfig } from './config.js';
import { TrainingConsole } from './console.js';
import { drawLossCurve, lossesOf } from './curve.js';
import type { TrainingEngine } from './engine.js';
import { exportModel } from './export.js';
import { FewToManySampler } from './few_to_many.js';
import { HeldOut } from './held_out.js';
import { readWeight, runWeights, writeInitialWeights, type RunWeight } from './initial_weights.js';
import { TrainingLogs } from './logs.js';
import type { StateVector } from './parameters.js';
import { openRunData, type RunData } from './run_data.js';
import { decodersOf, openEngine, photoSize, samplingOf } from './run_parts.js';
import { learningRateFactor } from './schedule.js';
import { exitCodeOf, StopSignals } from './signals.js';
import { StepTensors, type MicroBatch } from './step_data.js';

/** What a run's state is besides tensors. */
interface RunState {
  readonly config: unknown;
  /** Steps that changed the parameters. */
  readonly updates: number;
  /** Steps that were skipped because a loss or gradient was not finite. */
  readonly skipped: number;
}

export interface TrainOptions {
  /** Folder of the run: checkpoints, logs, pictures, the trained model. Made when its parent exists. */
  readonly runFolder: string;
  /** Go on from the folder's last checkpoint. Default: false; a folder with checkpoints is refused then. */
  readonly resume?: boolean;
  /** Where progress is written. Default: stderr. */
  readonly console?: TrainingConsole;
  /** Ends training after the step under way; a checkpoint is saved. */
  readonly signal?: AbortSignal;
}

/** How a run ended. */
export interface TrainResult {
  /** Steps that have been made in all. */
  readonly step: number;
  readonly finished: boolean;
  /** Of the last step that was not skipped. */
  readonly loss: number;
  readonly heldOutLoss: number | undefined;
  /** Share of the time of this process's steps that was spent waiting for data. */
  readonly dataWait: number;
  readonly skipped: number;
}

/** Smoothing of the loss that the console shows. */
const shownDecay = 0.98;

/**
 * Few-to-many training (paper, section 3.2) by a configuration: from new weights, or on from a checkpoint, to the configuration's last
 * step. A run that was stopped and resumed ends with the same weights, bit for bit, as one that was not.
 *
 * SIGINT, SIGTERM and the signal end it after the step under way, with a checkpoint. Peak memory: 20 bytes a parameter (16 without a moving average),
 * the activations of one micro-batch, and the photos of a few steps.
 *
 * @throws {ConfigError} `ERR_CONFIG`, {DatasetError} `ERR_DATASET`, {FileError} `ERR_FILE`, {FormatError} `ERR_FORMAT`, {DeviceError}
 *   `ERR_OUT_OF_MEMORY`; {NumericError} `ERR_NOT_FINITE` after `maxSkippedSteps` steps in a row whose loss or gradients are not finite
 */
export async function train(config: TrainingConfig, options: TrainOptions): Promise<TrainResult> {
  const run = await Run.open(config, options);
  try {
    return await run.train();
  } finally {
    await run.close();
  }
}

class Run {
  #step = 0;
  #updates = 0;
  #skipped = 0;
  #skippedInARow = 0;
  #heldOutLoss: number | undefined;

  private constructor(
    private readonly config: TrainingConfig,
    private readonly options: TrainOptions,
    private readonly console: TrainingConsole,
    private readonly checkpoints: Checkpoints,
    private readonly data: RunData,
    private readonly engine: TrainingEngine,
    private readonly weights: readonly RunWeight[],
    private readonly logs: TrainingLogs,
    private readonly heldOut: HeldOut | undefined,
  ) {}

  static async open(config: TrainingConfig, options: TrainOptions): Promise<Run> {
    const { runFolder, resume = false, signal = new AbortController().signal } = options;
    const output = options.console ?? new TrainingConsole({ steps: config.steps });
    const undo: (() => unknown)[] = [];
    try {
      await mkdir(runFolder, { recursive: true });
      const { keepLast, best } = config.checkpoints;
      const checkpoints = await Checkpoints.open(runFolder, { keepLast, best });
      undo.push(() => checkpoints.close());
      const damaged: { folder: string; error: Error }[] = [];
      const stored = await checkpoints.latest((one) => damaged.push(one));
      for (const { folder, error } of damaged)
        output.note(`${folder} is damaged, the one before it is used: ${error.message}`);
      if (stored && !resume) {
        throw new FileError(
          `${runFolder} holds a run that is at step ${stored.step}: go on with it (--resume), or choose another folder`,
        );
      }
      if (stored) checkResumable((stored.state as RunState).config, config, stored.folder);

      const data = await openRunData(config, {
        runFolder,
        signal,
        onRender: (done, total) => {
          output.preparing('rendering photos', done, total);
        },
      });
      undo.push(() => data.close());
      output.prepared();
      if (config.data.kind !== 'rendered') await requireReadable(data.training, { signal });
      const decoders = decodersOf(config, data.training);
      const engine = openEngine(config, decoders);
      undo.push(() => {
        engine.dispose();
      });
      await writeInitialWeights(config, engine, signal);
      const weights = runWeights(config, engine);
      const logs = TrainingLogs.open(runFolder, stored?.step ?? 0, { tensorboard: config.log.tensorboard });
      undo.push(() => {
        logs.close();
      });
      const heldOut = data.heldOut ? new HeldOut(config, engine, data.heldOut) : undefined;
      const run = new Run(config, options, output, checkpoints, data, engine, weights, logs, heldOut);
      for (const { folder, error } of damaged)
        logs.event(stored?.step ?? 0, 'damaged', { folder, reason: error.message });
      if (stored) await run.#restore(stored);
      const json = `${JSON.stringify(config, null, 2)}\n`;
      await writeFileAtomically(join(runFolder, 'config.json'), (file) => file.writeFile(json));
      return run;
    } catch (error) {
      for (const one of undo.reverse()) await one();
      throw error;
    }
  }

  async train(): Promise<TrainResult> {
    const { config, engine, data, logs, console: output } = this;
    const { sampling, accumulation, log, steps } = config;
    const sampler = new FewToManySampler(data.training, samplingOf(config));
    if (sampler.shortOfPhotos.length > 0) {
      output.note(
        `${sampler.shortOfPhotos.length} of ${data.training.identities} identities have too few photos for ${sampling.targets} targets and ${sampling.inputs[1]} inputs: some of theirs come several times in a step`,
      );
    }
    const size = photoSize(config);
    const loader = new BatchLoader(data.training, sampler, {
      size,
      firstStep: this.#step,
      endStep: Math.max(this.#step, steps),
      ahead: config.data.prefetch,
      ...(config.data.workers === undefined ? {} : { parallel: config.data.workers }),
      onProblem: ({ identityName, error }) => {
        output.note(`a photo of ${identityName} is left out: ${messageOf(error)}`);
      },
    });
    const sizes = { identities: sampling.identities, inputs: sampling.inputs[1], targets: sampling.targets };
    const sides = [0, 1].map(
      () => new StepTensors(engine.session, config.encoder, engine.model.decoders, sizes),
    );
    using stop = new StopSignals((name) => {
      output.note(`${name}: finishing the step and saving; once more ends at once`);
    });
    const prepare = async (step: number): Promise<MicroBatch[] | undefined> => {
      if (step >= steps) return undefined;
      const { batch } = await loader.next();
      const side = sides[step % 2];
      return side?.fill(batch, size, accumulation);
    };
    const { signal } = this.options;
    const stopped = (): boolean => stop.received !== undefined || signal?.aborted === true;
    let shown = NaN;
    let loss = NaN;
    let waited = 0;
    let spent = 0;
    output.start(this.#step);
    let window = { step: this.#step, waited: 0, seconds: 0 };
    try {
      let upcoming = quiet(prepare(this.#step));
      while (this.#step < steps && !stopped()) {
        const began = performance.now();
        const parts = await upcoming;
        const wait = performance.now() - began;
        if (!parts) break;
        upcoming = quiet(prepare(this.#step + 1));
        const result = await this.#run(parts);
        this.#step++;
        const seconds = (performance.now() - began) / 1000;
        waited += wait / 1000;
        spent += seconds;
        if (!Number.isNaN(result.loss)) {
          loss = result.loss;
          shown = Number.isNaN(shown) ? loss : shownDecay * shown + (1 - shownDecay) * loss;
        }
        if (this.#step % log.every === 0 || this.#step === steps) {
          const count = this.#step - window.step;
          const perSecond = (count * sampling.identities) / (spent - window.seconds);
          const dataWait = (waited - window.waited) / (spent - window.seconds);
          const learningRate = this.#learningRate(this.#step - 1);
          logs.scalars(this.#step, 'train', {
            loss: result.loss,
            ...result.losses,
            gradNorm: result.norm,
            learningRate,
            identitiesPerSecond: perSecond,
            dataWait,
          });
          output.update({
            step: this.#step,
            loss: shown,
            identitiesPerSecond: perSecond,
            dataWait,
            learningRate,
          });
          window = { step: this.#step, waited, seconds: spent };
        }
        await this.#regular();
      }
      upcoming.catch(() => undefined);
      await Promise.allSettled([upcoming]);
      const finished = this.#step >= steps;
      await this.#save();
      if (finished && this.heldOut) await this.#draw();
      await exportModel(join(this.options.runFolder, 'model'), config, engine, this.weights);
      await this.#drawCurve();
      const received = stop.received;
      if (received) process.exitCode = exitCodeOf(received);
      return {
        step: this.#step,
        finished,
        loss,
        heldOutLoss: this.#heldOutLoss,
        dataWait: spent > 0 ? waited / spent : 0,
        skipped: this.#skipped,
      };
    } finally {
      output.stop();
      await loader.stop();
      for (const side of sides) side.dispose();
    }
  }

  async close(): Promise<void> {
    this.heldOut?.dispose();
    this.logs.close();
    this.engine.dispose();
    await this.data.close();
    await this.checkpoints.close();
  }

  #learningRate(step: number): number {
    const { optimizer, steps } = this.config;
    const { schedule, warmupSteps, minLearningRateRatio } = optimizer;
    return (
      optimizer.learningRate *
      learningRateFactor(step, { schedule, warmupSteps, steps, minLearningRateRatio })
    );
  }

  /** One step of the optimizer, over all micro-batches. */
  async #run(
    parts: readonly MicroBatch[],
  ): Promise<{ loss: number; losses: Record<string, number>; norm: number }> {
    const { engine, config } = this;
    const losses: Record<string, number> = {};
    let norm = NaN;
    for (const [i, { shape, data }] of parts.entries()) {
      const last = i === parts.length - 1;
      const result = await engine.run(
        shape,
        { gradients: i === 0 ? 'new' : 'more', update: last, show: false },
        data,
        {
          settings: {
            step: this.#updates + 1,
            learningRate: this.#learningRate(this.#step),
            averageDecay: config.optimizer.emaDecay ?? 0,
          },
        },
      );
      for (const [name, value] of Object.entries(result.losses)) losses[name] = (losses[name] ?? 0) + value;
      norm = result.norm;
    }
    const loss = engine.model.decoders.reduce(
      (sum, { name, weight }) => sum + weight * (losses[name] ?? NaN),
      0,
    );
    if (Number.isFinite(loss) && Number.isFinite(norm)) {
      this.#updates++;
      this.#skippedInARow = 0;
      return { loss, losses, norm };
    }
    this.#skipped++;
    this.#skippedInARow++;
    this.logs.event(this.#step + 1, 'skipped', { loss: String(loss), gradNorm: String(norm) });
    this.console.note(`step ${this.#step + 1} is skipped: loss ${loss}, norm of the gradients ${norm}`);
    if (this.#skippedInARow > config.maxSkippedSteps) {
      throw new NumericError(
        `the loss or its gradients were not finite in ${this.#skippedInARow} steps in a row (loss ${loss}, norm ${norm} at step ${this.#step + 1}), at most ${config.maxSkippedSteps} are skipped (maxSkippedSteps). ` +
          'The parameters are those before them. Try a lower learning rate, a longer warm-up, or dtype f32.',
      );
    }
    return { loss: NaN, losses: {}, norm: NaN };
  }

  /** What happens every so many steps. */
  async #regular(): Promise<void> {
    const { log, checkpoints } = this.config;
    const due = (every: number | null): boolean => every !== null && this.#step % every === 0;
    if (
      this.heldOut &&
      (due(log.evaluateEvery) || (this.#step === this.config.steps && log.evaluateEvery !== null))
    ) {
      this.#heldOutLoss = await this.heldOut.loss();
      this.logs.scalars(this.#step, 'held_out', { loss: this.#heldOutLoss });
      this.console.note(`step ${this.#step}: held-out loss ${this.#heldOutLoss.toFixed(4)}`);
    }
    if (this.heldOut && due(log.imagesEvery)) await this.#draw();
    if (due(checkpoints.every) && this.#step < this.config.steps) await this.#save();
  }

  async #draw(): Promise<void> {
    if (!this.heldOut) return;
    const picture = await this.heldOut.draw();
    const folder = join(this.options.runFolder, 'images');
    await mkdir(folder, { recursive: true });
    const path = join(folder, `step-${String(this.#step).padStart(8, '0')}.png`);
    await writeFileAtomically(path, (file) => file.writeFile(picture.png));
    this.logs.image(this.#step, 'held_out', picture);
  }

  async #drawCurve(): Promise<void> {
    const svg = await drawLossCurve(lossesOf(this.logs.entries), { title: 'Few-to-many training' });
    await writeFileAtomically(join(this.options.runFolder, 'curve.svg'), (file) => file.writeFile(svg));
  }

  async #save(): Promise<void> {
    const { engine, weights } = this;
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
    const state: RunState = { config: this.config, updates: this.#updates, skipped: this.#skipped };
    await this.checkpoints.save({
      step: this.#step,
      heldOutLoss: this.#heldOutLoss,
      state,
      tensors: {
        ...Object.fromEntries(engine.state.vectors.map((vector) => [vector, group(vector)])),
        ...(fixed.length > 0 ? { fixed } : {}),
      },
    });
  }

  async #restore(stored: StoredCheckpoint): Promise<void> {
    const { engine } = this;
    const { updates, skipped } = stored.state as RunState;
    this.#step = stored.step;
    this.#updates = updates;
    this.#skipped = skipped;
    this.#heldOutLoss = stored.heldOutLoss;
    const slots = new Map(engine.layout.slots.map((slot) => [slot.name, slot]));
    for (const vector of engine.state.vectors) {
      const missing = new Set(slots.keys());
      for await (const { name, first, values } of stored.pieces(vector)) {
        const slot = slots.get(name);
        if (!slot) throw new Error(`${stored.folder} has ${name}, which this run does not train`);
        missing.delete(name);
        engine.state.write(vector, { ...slot, offset: slot.offset + first, count: values.length }, values);
      }
      if (missing.size > 0) throw new Error(`${stored.folder} lacks ${[...missing].join(', ')}`);
    }
    this.console.note(`resumed at step ${stored.step}`);
  }
}

/** Steps that are prepared ahead: nobody waits for one that failed before its turn. */
function quiet<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}
