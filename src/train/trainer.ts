import { join } from 'node:path';
import { Writable } from 'node:stream';
import { quiet } from '../data/ahead.js';
import { FileError, InterruptedError, NumericError } from '../errors.js';
import { writeFileAtomically } from '../io/atomic_file.js';
import { makeFolder } from '../io/files.js';
import { checkFolder, checkOptions } from '../options.js';
import { BatchLoader } from './batch_loader.js';
import { checkTrainingConfig, type TrainingConfig } from './config.js';
import { TrainingConsole, type TrainingProgress } from './console.js';
import { drawLossCurve, lossesOf } from './curve.js';
import { exportModel, trainedWeights } from './export.js';
import { FewToManySampler } from './few_to_many.js';
import { checkActivations, largestShape, memoryFor } from './memory.js';
import { openRun, type RunParts } from './open_run.js';
import { photoSize, samplingOf } from './run_parts.js';
import { saveRun } from './run_state.js';
import { averageDecay, learningRateFactor } from './schedule.js';
import { StopSignals, type StopSignal } from './signals.js';
import { StepTensors, type MicroBatch } from './step_data.js';
import { StepMeter } from './step_meter.js';

export interface TrainOptions {
  /** Folder of the run: checkpoints, logs, pictures, the trained model. Made where there is none. */
  readonly runFolder: string;
  /**
   * Go on from the folder's last checkpoint, or from the beginning where the run was stopped before its first. Default: false; a folder with
   * checkpoints is refused then.
   */
  readonly resume?: boolean;
  /** Told after every step, and waited for. What it throws ends the run as an error of its own would: at its last checkpoint. */
  readonly onProgress?: (progress: TrainingProgress) => unknown;
  /** Where it is told in words how training goes: a progress bar on a terminal, lines elsewhere. `null`: nowhere. Default: stderr. */
  readonly output?: NodeJS.WritableStream | null;
  /** Ends training after the step under way; a checkpoint is saved. While the run is made ready: rejects with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** How a run ended. */
export interface TrainResult {
  /** Steps that have been made in all. */
  readonly step: number;
  readonly finished: boolean;
  /** Of this process's last step that was not skipped; NaN when there was none. */
  readonly loss: number;
  readonly heldOutLoss: number | undefined;
  /** Share of the time of this process's steps that was spent waiting for data. */
  readonly dataWait: number;
  /** Steps that changed nothing, as their loss or gradients were not finite, in all. */
  readonly skipped: number;
  /** Photos that this process could not read; `log.jsonl` names them. */
  readonly unreadablePhotos: number;
  /** The signal of the system that ended training before it was finished. */
  readonly stoppedBy: StopSignal | undefined;
}

/**
 * Few-to-many training (paper, section 3.2) by a configuration: from new weights, or on from a checkpoint, to the configuration's last
 * step. A run that was stopped and resumed ends with the same weights, bit for bit, as one that was not.
 *
 * SIGINT, SIGTERM and the signal end it after the step under way, with a checkpoint; a second SIGINT or SIGTERM in the middle of a step, without. Peak memory: 20 bytes a parameter (16 without a moving average),
 * the activations of one micro-batch, and the photos of a few steps.
 *
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`, {ConfigError} `ERR_CONFIG`, {DatasetError} `ERR_DATASET`, {FileError} `ERR_FILE`, {FormatError} `ERR_FORMAT`, {DeviceError}
 *   `ERR_OUT_OF_MEMORY`; {InterruptedError} `ERR_INTERRUPTED` when a signal of the system ends it before the first step or within one; {NumericError} `ERR_NOT_FINITE` after more than `maxSkippedSteps` steps in a row whose loss or gradients are not finite,
 *   or when a parameter is not at a checkpoint, which is not written then
 */
export async function train(config: TrainingConfig, options: TrainOptions): Promise<TrainResult> {
  checkTrainingConfig(config);
  checkOptions('train', options);
  checkFolder(options.runFolder, 'runFolder');
  const { onProgress } = options;
  const stream = options.output === null ? nowhere() : options.output;
  const output = new TrainingConsole({ steps: config.steps, ...(stream && { stream }) });
  const opening = new AbortController();
  using stop = new StopSignals((name) => {
    output.note(`${name}: stopping before the first step; once more ends at once`);
    opening.abort(new InterruptedError(name, `${name}: ended before the first step`));
  });
  const signals = [opening.signal, ...(options.signal ? [options.signal] : [])];
  const { runFolder, resume } = options;
  const parts = await openRun(config, { runFolder, resume, console: output, signal: AbortSignal.any(signals) }); // prettier-ignore
  stop.onStop = (name) => {
    output.note(`${name}: finishing the step and saving; once more gives the step up`);
  };
  try {
    return await new Run(parts, { signal: options.signal, stop, onProgress }).train();
  } finally {
    await parts.close();
  }
}

/** A stream that writes nothing. */
function nowhere(): Writable {
  return new Writable({
    write: (_chunk, _encoding, done) => {
      done();
    },
  });
}

/** What ends a run early, and who is told of it. */
interface RunOptions {
  readonly signal: AbortSignal | undefined;
  readonly stop: StopSignals;
  readonly onProgress: TrainOptions['onProgress'];
}

/** What a step came to. */
interface StepOutcome {
  /** Weighted sum over the decoders; NaN of a step that was skipped. */
  readonly loss: number;
  /** By decoder, not weighted. */
  readonly losses: Readonly<Record<string, number>>;
  /** Of all gradients, before clipping. */
  readonly norm: number;
}

class Run {
  readonly #meter = new StepMeter();
  /** Step of the last checkpoint that this process has written. */
  #savedHere: number | undefined;

  constructor(
    private readonly parts: RunParts,
    private readonly options: RunOptions,
  ) {}

  async train(): Promise<TrainResult> {
    const { config, runFolder, engine, data, console: output, report, progress } = this.parts;
    const { sampling, steps } = config;
    const sampler = new FewToManySampler(data.training, samplingOf(config));
    report.shortages(progress.step, data.training, sampler, sampling.identities);
    const loader = new BatchLoader(data.training, sampler, {
      size: photoSize(config),
      firstStep: progress.step,
      endStep: Math.max(progress.step, steps),
      ahead: config.data.prefetch,
      ...(config.data.workers === undefined ? {} : { parallel: config.data.workers }),
      onProblem: (problem) => {
        report.unreadable(progress.step, 'training', problem);
      },
      reportAtMost: Infinity,
    });
    const sizes = {
      identities: sampling.identities,
      inputs: sampling.inputs[1],
      targets: sampling.targets,
    };
    const sides: StepTensors[] = [];
    const { stop, signal } = this.options;
    const stopped = (): boolean => stop.received !== undefined || signal?.aborted === true;
    // The loader reads already: whatever fails from here on, the data set must not be closed under it.
    try {
      while (sides.length < 2)
        sides.push(new StepTensors(engine.session, config.encoder, engine.model.decoders, sizes));
      await this.#tellMemory();
      output.start(progress.step);
      await this.#steps(loader, sides, stopped);
    } finally {
      output.stop();
      await loader.stop();
      for (const side of sides) side.dispose();
    }
    const finished = progress.step >= steps;
    if (this.#savedHere !== progress.step) await this.#save();
    if (finished) await this.#draw();
    const trained = trainedWeights(engine, this.parts.weights);
    await exportModel(join(runFolder, 'model'), config.encoder, engine.model.decoders, trained, data.record);
    await this.#drawCurve();
    const summary = report.summary();
    if (summary !== undefined) output.note(summary);
    return {
      step: progress.step,
      finished,
      loss: this.#meter.loss,
      heldOutLoss: progress.heldOutLoss,
      dataWait: this.#meter.dataWait,
      skipped: progress.skipped,
      unreadablePhotos: report.unreadablePhotos,
      stoppedBy: finished ? undefined : stop.received,
    };
  }

  /** Makes steps until the last one, or until told to stop. The next step's photos are brought to the device meanwhile. */
  async #steps(loader: BatchLoader, sides: readonly StepTensors[], stopped: () => boolean): Promise<void> {
    const { config, progress } = this.parts;
    const { steps, accumulation } = config;
    const size = photoSize(config);
    const prepare = async (step: number): Promise<MicroBatch[]> => {
      if (step >= steps) return [];
      const { batch } = await loader.next();
      return (await sides[step % 2]?.fill(batch, size, accumulation)) ?? [];
    };
    let upcoming = quiet(prepare(progress.step));
    try {
      while (progress.step < steps && !stopped()) {
        const began = performance.now();
        const batches = await upcoming;
        const waited = (performance.now() - began) / 1000;
        upcoming = quiet(prepare(progress.step + 1));
        const outcome = await this.#step(batches);
        progress.step++;
        this.#meter.add({ seconds: (performance.now() - began) / 1000, waited, loss: outcome.loss });
        await this.#regular(outcome);
      }
    } finally {
      // Nothing may still be written to the tensors when they are disposed of.
      await Promise.allSettled([upcoming]);
    }
  }

  #learningRate(step: number): number {
    const { optimizer, steps } = this.parts.config;
    return optimizer.learningRate * learningRateFactor(step, { ...optimizer, steps });
  }

  /** One step of the optimizer, over all micro-batches. */
  async #step(batches: readonly MicroBatch[]): Promise<StepOutcome> {
    const { engine, config, progress } = this.parts;
    const update = progress.updates + 1;
    const settings = {
      step: update,
      learningRate: this.#learningRate(progress.step),
      averageDecay: averageDecay(update, config.optimizer.emaDecay ?? 0),
    };
    const losses: Record<string, number> = {};
    let loss = 0;
    let norm = NaN;
    for (const [i, { shape, data }] of batches.entries()) {
      const gradients = i === 0 ? 'new' : 'more';
      const kind = { gradients, update: i === batches.length - 1, show: false } as const;
      const result = await this.options.stop.abortable(
        `step ${progress.step + 1} was given up; ${this.#saved}`,
        (signal) => engine.run(shape, kind, data, { settings, signal }),
      );
      for (const { name, weight } of engine.model.decoders) {
        const its = result.losses[name] ?? NaN;
        losses[name] = (losses[name] ?? 0) + its;
        loss += weight * its;
      }
      norm = result.norm;
      // The engine does not update by this micro-batch's loss when it is not finite; of one before it only this tells.
      if (!Number.isFinite(loss)) break;
    }
    if (!Number.isFinite(loss) || !Number.isFinite(norm)) {
      this.#skip(loss, norm);
      return { loss: NaN, losses: {}, norm: NaN };
    }
    progress.updates++;
    progress.skippedInARow = 0;
    return { loss, losses, norm };
  }

  /** Counts a step that changed nothing. */
  #skip(loss: number, norm: number): void {
    const { config, logs, console: output, progress } = this.parts;
    const step = progress.step + 1;
    progress.skipped++;
    progress.skippedInARow++;
    logs.event(step, 'skipped', { loss: String(loss), gradNorm: String(norm) });
    output.note(`step ${step} is skipped: loss ${loss}, norm of the gradients ${norm}`);
    if (progress.skippedInARow <= config.maxSkippedSteps) return;
    throw new NumericError(
      `the loss or its gradients were not finite in ${progress.skippedInARow} steps in a row (loss ${loss}, norm ${norm} at step ${step}), at most ${config.maxSkippedSteps} are skipped (maxSkippedSteps). ` +
        'Try a lower learning rate, a longer warm-up, or dtype f32.',
    );
  }

  /** What a step needs at most, before the first one. */
  async #tellMemory(): Promise<void> {
    const { config, engine, heldOut, logs, console: output, progress } = this.parts;
    output.note('preparing the first step');
    const shape = largestShape(config);
    const kind = { gradients: 'new', update: config.accumulation === 1, show: false } as const;
    // Values, gradients, and what the optimizer keeps.
    const parameterBytes = engine.layout.size * 4 * (engine.state.vectors.length + 1);
    const ofStep = await engine.arenaBytes(shape, kind);
    const activationBytes = Math.max(ofStep, (await heldOut?.arenaBytes()) ?? 0);
    checkActivations(activationBytes, memoryFor(config));
    logs.event(progress.step, 'memory', { parameterBytes, activationBytes });
    const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(0)} MB`;
    output.note(
      `memory: parameters with gradients and moments ${mb(parameterBytes)}, activations ${mb(activationBytes)}`,
    );
  }

  /** What happens after every so many steps. */
  async #regular(outcome: StepOutcome): Promise<void> {
    const { config, heldOut, logs, console: output, progress } = this.parts;
    const { log, checkpoints, steps } = config;
    const { step } = progress;
    const due = (every: number | null): boolean => every !== null && step % every === 0;
    await this.#tell(outcome, due(log.every) || step === steps);
    if (heldOut && log.evaluateEvery !== null && (due(log.evaluateEvery) || step === steps)) {
      const loss = await heldOut.loss((done, total) => {
        output.between('held-out people', done, total);
      });
      progress.heldOutLoss = loss;
      progress.heldOutStep = step;
      logs.scalars(step, 'held_out', { loss });
      output.note(`step ${step}: held-out loss ${loss.toFixed(4)}`);
    }
    // After the last step both are made anyway.
    if (step === steps) return;
    if (due(log.imagesEvery)) await this.#draw();
    if (due(checkpoints.every)) await this.#save();
  }

  /** @param due whether the log has a line of this step */
  async #tell({ loss, losses, norm }: StepOutcome, due: boolean): Promise<void> {
    const { config, logs, console: output, progress } = this.parts;
    const { step } = progress;
    const { stepsPerSecond, dataWait } = due ? this.#meter.look() : this.#meter.sinceLook;
    const identitiesPerSecond = stepsPerSecond * config.sampling.identities;
    const learningRate = this.#learningRate(step - 1);
    const rates = { learningRate, identitiesPerSecond, dataWait };
    if (due) logs.scalars(step, 'train', { loss, ...losses, gradNorm: norm, ...rates });
    const told = { step, steps: config.steps, loss: this.#meter.smoothedLoss, ...rates };
    output.update(told, due);
    await this.options.onProgress?.(told);
  }

  async #draw(): Promise<void> {
    const { heldOut, runFolder, logs, progress } = this.parts;
    if (!heldOut) return;
    const picture = await heldOut.draw();
    const folder = join(runFolder, 'images');
    await makeFolder(folder);
    const path = join(folder, `step-${String(progress.step).padStart(8, '0')}.png`);
    await writeFileAtomically(path, (file) => file.writeFile(picture.png));
    logs.image(progress.step, 'held_out', picture);
  }

  async #drawCurve(): Promise<void> {
    const { logs, runFolder } = this.parts;
    const svg = await drawLossCurve(lossesOf(logs.entries), { title: 'Few-to-many training' });
    await writeFileAtomically(join(runFolder, 'curve.svg'), (file) => file.writeFile(svg));
  }

  /** Where the run would go on, in words. */
  get #saved(): string {
    const { savedStep } = this.parts.progress;
    return savedStep === undefined ? 'there is no checkpoint yet' : `the run is still saved at step ${savedStep}`; // prettier-ignore
  }

  async #save(): Promise<void> {
    const { checkpoints, config, engine, weights, fingerprint, progress } = this.parts;
    try {
      await saveRun(checkpoints, config, engine, weights, fingerprint, progress);
      progress.savedStep = this.#savedHere = progress.step;
    } catch (error) {
      if (!(error instanceof FileError)) throw error;
      throw new FileError(`no checkpoint of step ${progress.step}: ${error.message}; ${this.#saved}`, { cause: error }); // prettier-ignore
    }
  }
}
