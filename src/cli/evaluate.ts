import type { Command } from 'commander';
import { openDataset } from '../data/open_dataset.js';
import { heldOutSeed } from '../data/rendered.js';
import { ArgumentError } from '../errors.js';
import { evaluate, type EvaluationReport } from '../eval/evaluate.js';
import { countsOf, type EvaluateOptions, type EvaluationData } from '../eval/settings.js';
import type { DeviceName } from '../graph/devices.js';
import { maskRatio, number, seed } from '../kinds.js';
import type { ComputeDType } from '../models/model.js';
import { loadPair } from '../models/trained_pair.js';
import { evaluationTable } from './evaluate_table.js';
import {
  addComputeOptions,
  addViewOptions,
  jsonOption,
  numberOf,
  viewOptions,
  type ViewCommand,
} from './options.js';
import { exitCodes, interruptSignal, printJson, progressBar, warn } from './output.js';

export interface EvaluateCommand extends ViewCommand {
  readonly weights: string;
  readonly data?: string;
  readonly identities?: number;
  readonly views?: number;
  readonly targets?: number;
  readonly inputs?: number;
  readonly maskRatio?: number;
  readonly seed?: number;
  readonly firstSeed?: number;
  readonly probe: boolean;
  readonly probePeople?: number;
  readonly probeTest?: number;
  readonly probePhotos?: number;
  readonly probeFirstSeed?: number;
  readonly device?: DeviceName;
  readonly dtype: ComputeDType;
  readonly threads?: number;
  readonly json?: boolean;
}

/** Options that say what is rendered, which a data set on disk has no use for. */
const ofRendered = [
  'firstSeed',
  'crop',
  'poseSpread',
  'jitter',
  'probePeople',
  'probeTest',
  'probePhotos',
  'probeFirstSeed',
] as const;

/** A progress bar for each stage, behind each other. */
function stagedBar(): { onProgress: NonNullable<EvaluateOptions['onProgress']>; stop(): void } {
  let current: { stage: string; bar: ReturnType<typeof progressBar> } | undefined;
  return {
    onProgress: ({ stage, done, total }) => {
      if (current?.stage !== stage) {
        current?.bar.stop();
        current = { stage, bar: progressBar(stage) };
      }
      current.bar.update(done, total);
    },
    stop: () => current?.bar.stop(),
  };
}

/** The flags of options that are called something else in programs. */
const flags: Readonly<Record<string, string>> = {
  'probe.trainPeople': '--probe-people',
  'probe.testPeople': '--probe-test',
  'probe.photos': '--probe-photos',
};

async function report(
  command: EvaluateCommand,
  options: EvaluateOptions,
): Promise<{ result: EvaluationReport; info: unknown }> {
  const { device, threads, signal } = options;
  await using pair = await loadPair(command.weights, { device, dtype: command.dtype, threads, signal });
  const bar = stagedBar();
  const result = await evaluate(pair, { ...options, onProgress: bar.onProgress, onCaution: warn }).finally(
    () => {
      bar.stop();
    },
  );
  return { result, info: pair.encoder.info };
}

/** `omni-id evaluate`: what a trained pair has learned, on people that it has not seen. */
export async function evaluateCommand(command: EvaluateCommand): Promise<number> {
  const useless = ofRendered.find((name) => command.data !== undefined && command[name] !== undefined);
  if (useless !== undefined) {
    const flag = useless.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    throw new ArgumentError(`--${flag} is of rendered people: expected it without --data`);
  }
  const { identities, views, targets, inputs, seed, device, threads } = command;
  const probe = command.probe && {
    trainPeople: command.probePeople,
    testPeople: command.probeTest,
    photos: command.probePhotos,
    firstSeed: command.probeFirstSeed,
  };
  const options = {
    identities,
    views,
    targets,
    inputs,
    maskRatio: command.maskRatio,
    seed,
    probe,
    device,
    threads,
  };
  // Before anything is loaded, and by the names that were typed.
  countsOf(options, (option) => flags[option] ?? `--${option}`);
  const signal = interruptSignal();
  const started = performance.now();
  const dataset = command.data === undefined ? undefined : await openDataset(command.data);
  try {
    const data: EvaluationData = dataset
      ? { kind: 'stored', dataset }
      : { kind: 'rendered', firstSeed: command.firstSeed, view: viewOptions(command) };
    const { result, info } = await report(command, { ...options, data, signal });
    const seconds = (performance.now() - started) / 1000;
    if (command.json === true) printJson({ weights: command.weights, ...result, seconds, info });
    else console.log(evaluationTable(result));
    return exitCodes.ok;
  } finally {
    await dataset?.close();
  }
}

/** Adds `omni-id evaluate`. */
export function addEvaluateCommand(program: Command): void {
  // What range is expected follows from the others.
  const count = numberOf(number());
  const command = addComputeOptions(
    program
      .command('evaluate')
      .description('tell what an encoder and its decoder have learned, on people that they have not seen')
      .requiredOption('--weights <dir>', 'what training has written: an encoder with its decoder in mtd/')
      .option(
        '--data <dir>',
        'identity folders or .tar shards; people that training held out are taken, where the weights do not tell, the last ones (default: rendered people)',
      )
      .option('--identities <n>', 'people whose photos are rebuilt, at most (default: 64)', count)
      .option('--views <n>', 'photos of each, inputs and targets together (default: 16)', count)
      .option('--targets <n>', 'photos of each that are rebuilt (default: what 8 inputs leave)', count)
      .option('--inputs <n>', 'photos that the right ℓ is made from (default: 3)', count)
      .option(
        '--mask-ratio <share>',
        'share of a target that is masked (default: that of training)',
        numberOf(maskRatio),
      )
      .option('--seed <n>', 'seed of masks and of the choice of photos (default: 0)', numberOf(seed))
      .option(
        '--first-seed <n>',
        `seed of the first rendered person (default: ${heldOutSeed})`,
        numberOf(seed),
      )
      .option('--no-probe', 'leave out the linear probe')
      .option('--probe-people <n>', 'rendered people that the probe is fitted to (default: 1500)', count)
      .option('--probe-test <n>', 'rendered people that it is tested on (default: 300)', count)
      .option('--probe-photos <n>', 'photos of each (default: 3)', count)
      .option(
        '--probe-first-seed <n>',
        'seed of the first of them (default: 10,000 after the first person)',
        numberOf(seed),
      ),
  );
  addViewOptions(command, 'as in training')
    .addOption(jsonOption())
    .action(async (options: EvaluateCommand) => {
      process.exitCode = await evaluateCommand(options);
    });
}
