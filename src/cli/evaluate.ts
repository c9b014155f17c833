import type { Command } from 'commander';
import { openDataset } from '../data/open_dataset.js';
import { heldOutSeed } from '../data/rendered.js';
import { ArgumentError } from '../errors.js';
import { evaluate, type EvaluationReport } from '../eval/evaluate.js';
import type { EvaluateOptions, EvaluationData } from '../eval/settings.js';
import type { DeviceName } from '../graph/devices.js';
import type { ComputeDType } from '../models/model.js';
import { loadPair } from '../models/trained_pair.js';
import { evaluationTable } from './evaluate_table.js';
import {
  addComputeOptions,
  addViewOptions,
  jsonOption,
  maskRatio,
  viewOptions,
  wholeNumber,
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

async function report(
  options: EvaluateCommand,
  data: EvaluationData,
  signal: AbortSignal,
): Promise<{ result: EvaluationReport; info: unknown }> {
  const { device, dtype, threads } = options;
  await using pair = await loadPair(options.weights, { device, dtype, threads, signal });
  const bar = stagedBar();
  const result = await evaluate(pair, {
    data,
    identities: options.identities,
    views: options.views,
    targets: options.targets,
    inputs: options.inputs,
    maskRatio: options.maskRatio,
    seed: options.seed,
    probe: options.probe && {
      trainPeople: options.probePeople,
      testPeople: options.probeTest,
      photos: options.probePhotos,
      firstSeed: options.probeFirstSeed,
    },
    device,
    threads,
    signal,
    onProgress: bar.onProgress,
    onCaution: warn,
  }).finally(() => {
    bar.stop();
  });
  return { result, info: pair.encoder.info };
}

/** `omni-id evaluate`: what a trained pair has learned, on people that it has not seen. */
export async function evaluateCommand(options: EvaluateCommand): Promise<number> {
  const useless = ofRendered.find((name) => options.data !== undefined && options[name] !== undefined);
  if (useless !== undefined) {
    const flag = useless.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    throw new ArgumentError(`--${flag} is of rendered people: expected it without --data`);
  }
  const signal = interruptSignal();
  const started = performance.now();
  const dataset = options.data === undefined ? undefined : await openDataset(options.data);
  try {
    const data: EvaluationData = dataset
      ? { kind: 'stored', dataset }
      : { kind: 'rendered', firstSeed: options.firstSeed, view: viewOptions(options) };
    const { result, info } = await report(options, data, signal);
    const seconds = (performance.now() - started) / 1000;
    if (options.json === true) printJson({ weights: options.weights, ...result, seconds, info });
    else console.log(evaluationTable(result));
    return exitCodes.ok;
  } finally {
    await dataset?.close();
  }
}

/** Adds `omni-id evaluate`. */
export function addEvaluateCommand(program: Command): void {
  const command = addComputeOptions(
    program
      .command('evaluate')
      .description('tell what an encoder and its decoder have learned, on people that they have not seen')
      .requiredOption('--weights <dir>', 'what training has written: an encoder with its decoder in mtd/')
      .option(
        '--data <dir>',
        'identity folders or .tar shards; people that training held out are taken, where the weights do not tell, the last ones (default: rendered people)',
      )
      .option('--identities <n>', 'people whose photos are rebuilt, at most (default: 64)', wholeNumber)
      .option('--views <n>', 'photos of each, inputs and targets together (default: 16)', wholeNumber)
      .option('--targets <n>', 'photos of each that are rebuilt (default: what 8 inputs leave)', wholeNumber)
      .option('--inputs <n>', 'photos that the right ℓ is made from (default: 3)', wholeNumber)
      .option(
        '--mask-ratio <share>',
        'share of a target that is masked (default: that of training)',
        maskRatio,
      )
      .option('--seed <n>', 'seed of masks and of the choice of photos (default: 0)', wholeNumber)
      .option('--first-seed <n>', `seed of the first rendered person (default: ${heldOutSeed})`, wholeNumber)
      .option('--no-probe', 'leave out the linear probe')
      .option(
        '--probe-people <n>',
        'rendered people that the probe is fitted to (default: 1500)',
        wholeNumber,
      )
      .option('--probe-test <n>', 'rendered people that it is tested on (default: 300)', wholeNumber)
      .option('--probe-photos <n>', 'photos of each (default: 3)', wholeNumber)
      .option(
        '--probe-first-seed <n>',
        'seed of the first of them (default: 10,000 after the first person)',
        wholeNumber,
      ),
  );
  addViewOptions(command, 'as in training')
    .addOption(jsonOption())
    .action(async (options: EvaluateCommand) => {
      process.exitCode = await evaluateCommand(options);
    });
}
