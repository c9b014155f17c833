import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { OmniIdError } from '../src/errors.js';
import { drawCharts, joined } from './charts.js';
import { compareFiles, readResults } from './compare.js';
import { sizes, type Size } from './fixtures.js';
import { profileEncoder, profileTraining } from './profile.js';
import { runSuites } from './run.js';
import { UsageError } from './usage_error.js';

/** Exit codes of `omni-id bench`. */
const exitCodes = { ok: 0, failed: 1, usage: 2 } as const;

/** The command line's options, as commander gives them. */
export interface BenchOptions {
  readonly suite: readonly string[];
  readonly only: readonly string[];
  readonly peer: readonly string[];
  readonly device: readonly string[];
  readonly json?: string;
  readonly markdown?: string;
  readonly quick?: boolean;
  readonly profile?: boolean;
  readonly threads?: number;
  readonly rounds?: number;
  readonly preset?: Size;
  readonly dtype: 'f32' | 'bf16';
  readonly batch: number;
}

function positive(text: string): number {
  if (!/^[1-9]\d{0,5}$/.test(text)) throw new InvalidArgumentError('expected a whole number above 0');
  return Number(text);
}

const collect = (value: string, before: string[]): string[] => [...before, value];
const log = (message: string): void => void process.stderr.write(`${message}\n`);

function newProgram(finish: (code: number) => void): Command {
  const program = new Command('bench')
    .description('Measure the encoder and its training beside what one would use instead, on this machine.')
    .exitOverride()
    .showHelpAfterError()
    .option('--suite <name>', 'suite to run; may be repeated (default: all)', collect, [])
    .option('--only <name>', 'ratio, operator or row to measure; may be repeated', collect, [])
    .option(
      '--peer <name>',
      'peer to measure beside ours; may be repeated (default: all that are found; "none")',
      collect,
      [],
    )
    .option(
      '--device <name>',
      'CUDA device to measure ours on, besides the CPU; may be repeated (default: the first one, where there is one; "none")',
      collect,
      [],
    )
    .option('--json <file>', 'write the results, with all samples, as JSON')
    .option('--markdown <file>', 'write the results as Markdown')
    .option('--quick', 'small sizes, a few rounds: checks that everything works, in less than 90 s')
    .option(
      '--profile',
      'print where the time of the encoder goes (with --suite training: of a training step), by operator and shape, and end',
    )
    .option('--threads <n>', 'threads to compute with (default: the processors there are)', positive)
    .option('--rounds <n>', 'samples to take of every row', positive)
    .addOption(
      new Option('--preset <size>', 'size of the encoder, where a suite leaves it open').choices(sizes),
    )
    .addOption(new Option('--dtype <type>', 'type to profile').choices(['bf16', 'f32']).default('bf16'))
    .addOption(new Option('--batch <n>', 'photos to profile').argParser(positive).default(4))
    .addHelpText(
      'after',
      '\nExit codes: 0 done; 1 a row failed or is wrong, or something became slower; 2 wrong usage.',
    )
    .action(async (options: BenchOptions) => {
      finish(
        options.profile
          ? await profile(options)
          : (await runSuites(options, log))
            ? exitCodes.ok
            : exitCodes.failed,
      );
    });
  program
    .command('compare')
    .description('what became slower from one run to another, beyond noise')
    .argument('<before>', 'JSON of a run')
    .argument('<after>', 'JSON of another')
    .action((before: string, after: string) => {
      finish(compareFiles(before, after, console.log) ? exitCodes.ok : exitCodes.failed);
    });
  program
    .command('chart')
    .description('figures of one or several runs as SVG')
    .argument('<results...>', 'JSON of runs on one machine')
    .requiredOption('--out <dir>', 'folder for the figures')
    .action(async (paths: string[], { out }: { out: string }) => {
      for (const path of await drawCharts(joined(paths.map(readResults)), out)) console.log(path);
      finish(exitCodes.ok);
    });
  return program;
}

async function profile(options: BenchOptions): Promise<number> {
  const { suite, quick = false, dtype, batch, rounds = 5, threads } = options;
  const training = suite.includes('training');
  const { preset = quick ? 'tiny' : training ? 'nano' : 'h' } = options;
  const settings = { size: preset, dtype, batch, rounds, threads };
  console.log(await (training ? profileTraining : profileEncoder)(settings, log));
  return exitCodes.ok;
}

/**
 * `npm run bench -- …` and `omni-id bench …`.
 * @param argv what stands behind `bench`
 * @returns the exit code
 */
export async function bench(argv: readonly string[]): Promise<number> {
  let code: number = exitCodes.ok;
  try {
    await newProgram((result) => (code = result)).parseAsync(argv, { from: 'user' });
    return code;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
    const known = error instanceof UsageError || error instanceof OmniIdError;
    log(
      `omni-id bench: ${known ? error.message : error instanceof Error ? (error.stack ?? '') : String(error)}`,
    );
    return error instanceof UsageError ? exitCodes.usage : exitCodes.failed;
  }
}
