import { InvalidArgumentError, Option, type Command } from 'commander';
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
  if (!/^\d+(\.\d+)?$/.test(text)) throw new InvalidArgumentError('expected a number');
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
