#!/usr/bin/env node
import { readFileSync } from 'node:fs';
import { Command, CommanderError, Option } from 'commander';
import { ArgumentError, InterruptedError, messageOf, OmniIdError } from '../errors.js';
import { seed } from '../kinds.js';
import { exitCodeOf } from '../train/signals.js';
import { addDatasetCommand } from './dataset.js';
import { embed, type EmbedCommand } from './embed.js';
import { addEvaluateCommand } from './evaluate.js';
import { addExportCommand } from './export.js';
import { convert, info, init } from './models.js';
import { addComputeOptions, jsonOption, numberOf } from './options.js';
import { addTrainCommand } from './train.js';
import { exitCodes, printJson, warn } from './output.js';
import { addReconstructCommand } from './reconstruct.js';

/** package.json lies one folder above both src/cli/.. and dist/. */
function version(): string {
  for (const path of ['../package.json', '../../package.json']) {
    try {
      const json = JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8')) as {
        name?: string;
        version: string;
      };
      if (json.name === 'omni-id') return json.version;
    } catch {
      // the other place
    }
  }
  return 'unknown';
}

const folderHelp = 'folder with config.json and safetensors weights';

const program = new Command('omni-id')
  .description('Identity tokens from any number of photos of a person.')
  .version(version())
  .showHelpAfterError('(--help lists the options)')
  .exitOverride()
  .addHelpText(
    'after',
    '\nExit codes: 0 done; 1 failed, or some photos could not be used; 2 wrong usage; 130 interrupted (143 by SIGTERM).',
  );

addComputeOptions(
  program
    .command('embed')
    .description('embed photos; a folder of folders is a set of identities')
    .argument('<paths...>', 'photos and folders')
    .addOption(
      new Option('--group <by>', 'which photos are one identity')
        .choices(['folder', 'file', 'all'])
        .default('folder'),
    )
    .option('--weights <dir>', `encoder to use: a ${folderHelp} (default: a new, untrained one)`)
    .option('--out <file>', 'write the tokens to FILE.safetensors, .npy or .json'),
)
  .addOption(jsonOption())
  .action(async (paths: string[], options: EmbedCommand) => {
    process.exitCode = await embed(paths, options);
  });

program
  .command('init')
  .description('make a new, untrained encoder')
  .argument('<preset>', 'nano, nano-synth or h')
  .requiredOption('--out <dir>', 'folder to write')
  .option('--seed <n>', 'seed of the weights', numberOf(seed), 0)
  .option('--force', 'replace a model that is there')
  .option('--clip <dir>', `CLIP model to start the vision tower from: a ${folderHelp}`)
  .addOption(
    new Option('--dtype <type>', 'type of the weights').choices(['f32', 'f16', 'bf16']).default('f32'),
  )
  .addOption(jsonOption())
  .action(async (preset: string, options: Parameters<typeof init>[1]) => {
    process.exitCode = await init(preset, options);
  });

program
  .command('convert')
  .description(
    'change the type of a model’s weights, rename OpenCLIP’s to Hugging Face’s, or write a packed cache',
  )
  .argument('<dir>', `model: a ${folderHelp}`)
  .option('--out <dir>', 'folder to write the converted model to')
  .option('--force', 'replace a model that is there')
  .addOption(
    new Option('--dtype <type>', 'type of the weights (default: f32; of a packed cache: bf16)').choices([
      'f32',
      'f16',
      'bf16',
    ]),
  )
  .option(
    '--pack',
    'write a packed cache, which is mapped at start: beside the converted model, or into <dir> without --out',
  )
  .addOption(jsonOption())
  .action(async (folder: string, options: Parameters<typeof convert>[1]) => {
    process.exitCode = await convert(folder, options);
  });

addTrainCommand(program);
addExportCommand(program);
addDatasetCommand(program);
addReconstructCommand(program);
addEvaluateCommand(program);

program
  .command('info')
  .description('version, devices, instruction sets, threads, memory')
  .addOption(jsonOption())
  .action((options: { json?: boolean }) => {
    process.exitCode = info(options);
  });

program
  .command('bench')
  .description('measure the encoder on this machine, beside what one would use instead')
  .argument('[options...]', 'see: omni-id bench --help')
  .helpOption(false)
  .allowUnknownOption()
  .action(async () => {
    // The suite is loaded only here, and reads its own command line.
    const { bench } = await import('../../benchmarks/command.js');
    process.exitCode = await bench(process.argv.slice(process.argv.indexOf('bench') + 1));
  });

function report(error: unknown): number {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return exitCodes.ok;
    // Commander has told the reader of stderr; a program reads stdout.
    if (process.argv.includes('--json')) {
      const message = error.message.replace(/^error: /, '');
      printJson({ error: { code: 'ERR_INVALID_ARGUMENT', message } });
    }
    return exitCodes.usage;
  }
  const code = error instanceof OmniIdError ? error.code : 'ERR_INTERNAL';
  const message = messageOf(error);
  if (process.argv.includes('--json')) printJson({ error: { code, message } });
  else
    warn(
      error instanceof OmniIdError ? message : error instanceof Error ? (error.stack ?? message) : message,
    );
  if (error instanceof InterruptedError) return exitCodeOf(error.signal);
  return error instanceof ArgumentError ? exitCodes.usage : exitCodes.failed;
}

// A reader that went away (`| head`) ends the output, not the work with an error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(process.exitCode);
  warn(`cannot write to standard output: ${error.message}`);
  process.exit(exitCodes.failed);
});
// Nor do warnings that nobody reads end it (`2>&1 | head`).
process.stderr.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
});

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = report(error);
}
