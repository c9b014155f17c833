import { InvalidArgumentError, Option, type Command } from 'commander';
import type { ViewOptions } from '../data/view_options.js';
import { isMaskRatio } from '../options.js';

/** An option's value that counts something. */
export function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(Number(text)))
    throw new InvalidArgumentError('expected a whole number');
  return Number(text);
}

export const jsonOption = (): Option => new Option('--json', 'print the result, and errors, as JSON');

/** An option's value that is not negative. */
export function number(text: string): number {
  if (!/^(\d+(\.\d*)?|\.\d+)$/.test(text)) throw new InvalidArgumentError('expected a number');
  return Number(text);
}

/** A share of patches. */
export function maskRatio(text: string): number {
  if (!/^\d*\.?\d+$/.test(text) || !isMaskRatio(Number(text)))
    throw new InvalidArgumentError('expected a number above 0 and below 1');
  return Number(text);
}

/** Adds the options of where and how is computed. */
export function addComputeOptions(command: Command): Command {
  return command
    .option('--device <name>', 'auto, cpu, cuda or cuda:<number>')
    .addOption(new Option('--dtype <type>', 'type to compute in').choices(['bf16', 'f32']).default('bf16'))
    .option('--threads <n>', 'threads to compute with', wholeNumber);
}

/** What of rendered views is chosen instead of drawn, as commands give it. */
export interface ViewCommand {
  readonly crop?: number;
  readonly poseSpread?: number;
  readonly jitter?: boolean;
}

/** @param byDefault what the options are when they are not given, where it is not the renderer's own choice */
export function addViewOptions(command: Command, byDefault?: string): Command {
  const otherwise = (renderers: string): string => `(default: ${byDefault ?? renderers})`;
  return command
    .option('--crop <factor>', `side of a rendered image over that of a tight crop ${otherwise('1')}`, number)
    .option(
      '--pose-spread <factor>',
      `of the angles that heads are turned by, 0 to 2 ${otherwise('1, which is 28° of yaw')}`,
      number,
    )
    .option('--jitter', `move and scale the crops of rendered images a little ${otherwise('yes')}`)
    .option('--no-jitter', 'do not');
}

export function viewOptions({ crop, poseSpread, jitter }: ViewCommand): ViewOptions {
  return { crop, poseSpread, jitter };
}
