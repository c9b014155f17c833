import { join, resolve } from 'node:path';
import { Option, type Command } from 'commander';
import { ArgumentError } from '../errors.js';
import { readTrainingConfig } from '../train/config.js';
import { trainingPresets } from '../train/presets.js';
import { checkRunFolder, configName } from '../train/run_folder.js';
import { exitCodeOf } from '../train/signals.js';
import { train } from '../train/trainer.js';
import { jsonOption } from './options.js';
import { exitCodes, printJson } from './output.js';
import { counted } from '../text.js';

interface TrainCommand {
  readonly preset?: keyof typeof trainingPresets;
  readonly set: string[];
  readonly out?: string;
  readonly resume?: boolean;
  readonly json?: boolean;
}

/** Where the configuration is: of a run that goes on, in its folder, when nothing else is named. */
async function sourceOf(
  file: string | undefined,
  preset: keyof typeof trainingPresets | undefined,
  runFolder: string,
): Promise<Parameters<typeof readTrainingConfig>[0]> {
  if (preset !== undefined) return { json: trainingPresets[preset], name: `preset ${preset}` };
  if (file !== undefined) return file;
  await checkRunFolder(runFolder, true);
  return join(runFolder, configName);
}

/** `omni-id train`: few-to-many training by a configuration or a preset. */
export async function trainCommand(file: string | undefined, options: TrainCommand): Promise<number> {
  const { preset, set, resume = false } = options;
  const given = [file, preset].filter((one) => one !== undefined).length;
  if (given > 1 || (given === 0 && !resume))
    throw new ArgumentError(
      'expected a configuration file or --preset, one of the two, or --resume with --out',
    );
  if (given === 0 && options.out === undefined)
    throw new ArgumentError('--resume alone does not tell which run: expected its folder, --out DIR');
  if (options.out === '') throw new ArgumentError('--out is empty: expected a folder');
  const runFolder = resolve(options.out ?? `runs/${preset ?? 'train'}`);
  const config = await readTrainingConfig(await sourceOf(file, preset, runFolder), set);
  const result = await train(config, { runFolder, resume });
  const { step, finished, loss, heldOutLoss, skipped, unreadablePhotos, stoppedBy } = result;
  if (options.json === true) printJson({ runFolder, ...result });
  else {
    const facts = [
      `step ${step} of ${config.steps}`,
      ...(Number.isNaN(loss) ? [] : [`loss ${loss.toFixed(4)}`]),
      ...(heldOutLoss === undefined ? [] : [`held-out loss ${heldOutLoss.toFixed(4)}`]),
      ...(skipped > 0 ? [`${counted(skipped, 'step')} skipped`] : []),
      ...(unreadablePhotos > 0 ? [`${counted(unreadablePhotos, 'photo')} could not be read`] : []),
    ];
    console.log(`${runFolder}: ${facts.join(', ')}${finished ? '' : '; go on with --resume'}`);
  }
  return stoppedBy === undefined ? exitCodes.ok : exitCodeOf(stoppedBy);
}

const collect = (value: string, before: string[]): string[] => [...before, value];

export function addTrainCommand(program: Command): void {
  program
    .command('train')
    .description('train an encoder by rebuilding many photos of a person from a few')
    .argument('[config]', 'configuration: a JSON file (docs/training.md)')
    .addOption(new Option('--preset <name>', 'a configuration by name').choices(Object.keys(trainingPresets)))
    .option(
      '--set <key=value>',
      'change a field of the configuration; may be given several times',
      collect,
      [],
    )
    .option('--out <dir>', 'folder of the run (default: runs/PRESET)')
    .option(
      '--resume',
      'go on from the folder’s last checkpoint; by the run’s own configuration when none is given',
    )
    .addOption(jsonOption())
    .action(async (file: string | undefined, options: TrainCommand) => {
      process.exitCode = await trainCommand(file, options);
    });
}
