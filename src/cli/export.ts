import { InvalidArgumentError, type Command } from 'commander';
import { exportCheckpoint } from '../train/export_checkpoint.js';
import { checkModelFolder } from '../train/run_folder.js';
import { checkFree } from './models.js';
import { jsonOption } from './options.js';
import { exitCodes, printJson, warn } from './output.js';

interface ExportCommand {
  readonly out: string;
  readonly checkpoint: 'latest' | 'best' | number;
  readonly force?: boolean;
  readonly json?: boolean;
}

function whichCheckpoint(text: string): 'latest' | 'best' | number {
  if (text === 'latest' || text === 'best') return text;
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('expected latest, best or a step');
  return Number(text);
}

/** `omni-id export`: the model of one of a run's checkpoints. */
export async function exportCommand(runFolder: string, options: ExportCommand): Promise<number> {
  const { out: folder, checkpoint } = options;
  await checkModelFolder(folder);
  await checkFree(folder, options.force === true);
  const exported = await exportCheckpoint({ runFolder, folder, checkpoint });
  const { step, heldOutLoss, damaged } = exported;
  for (const { folder: of, message } of damaged) warn(`${of} is damaged and passed over: ${message}`);
  if (options.json === true) printJson({ folder, ...exported });
  else {
    const loss = heldOutLoss === undefined ? '' : `, held-out loss ${heldOutLoss.toFixed(4)}`;
    console.log(`${folder}: the model of step ${step}${loss}`);
  }
  return exitCodes.ok;
}

export function addExportCommand(program: Command): void {
  program
    .command('export')
    .description('write the model of one of a run’s checkpoints')
    .argument('<run>', 'folder of the run')
    .requiredOption('--out <dir>', 'folder to write')
    .option(
      '--checkpoint <which>',
      'latest, best (lowest held-out loss) or a step',
      whichCheckpoint,
      'latest',
    )
    .option('--force', 'replace a model that is there')
    .addOption(jsonOption())
    .action(async (runFolder: string, options: ExportCommand) => {
      process.exitCode = await exportCommand(runFolder, options);
    });
}
