import { InvalidArgumentError, Option, type Command } from 'commander';
import { crop, poseSpread, type ViewOptions } from '../data/view_options.js';
import { deviceName, type DeviceName } from '../graph/devices.js';
import type { Kind } from '../kinds.js';
import { threadCount } from '../options.js';

/** A parser of an option's value, which is a number of this kind. */
export function numberOf({ expected, holds }: Kind<number>): (text: string) => number {
  return (text) => {
    const value: unknown = /^-?(\d+(\.\d*)?|\.\d+)$/.test(text) ? Number(text) : text;
    if (!holds(value)) throw new InvalidArgumentError(`expected ${expected}`);
    return value;
  };
}

function device(text: string): DeviceName {
  if (!deviceName.holds(text)) throw new InvalidArgumentError(`expected ${deviceName.expected}`);
  return text;
}

export const jsonOption = (): Option => new Option('--json', 'print the result, and errors, as JSON');

/** Adds the options of where and how is computed. */
export function addComputeOptions(command: Command): Command {
  return command
    .option('--device <name>', 'auto, cpu, cuda or cuda:<number>', device)
    .addOption(new Option('--dtype <type>', 'type to compute in').choices(['bf16', 'f32']).default('bf16'))
    .option('--threads <n>', 'threads to compute with', numberOf(threadCount));
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
    .option(
      '--crop <factor>',
      `side of a rendered image over that of a tight crop ${otherwise('1')}`,
      numberOf(crop),
    )
    .option(
      '--pose-spread <factor>',
      `of the angles that heads are turned by, 0 to 2 ${otherwise('1, which is 28° of yaw')}`,
      numberOf(poseSpread),
    )
    .option('--jitter', `move and scale the crops of rendered images a little ${otherwise('yes')}`)
    .option('--no-jitter', 'do not');
}

export function viewOptions({ crop, poseSpread, jitter }: ViewCommand): ViewOptions {
  return { crop, poseSpread, jitter };
}
