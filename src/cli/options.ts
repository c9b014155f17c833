import { InvalidArgumentError, Option } from 'commander';

/** An option's value that counts something. */
export function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(Number(text)))
    throw new InvalidArgumentError('expected a whole number');
  return Number(text);
}

export const jsonOption = (): Option => new Option('--json', 'print the result, and errors, as JSON');
