/** A name or file on the command line that does not exist or makes no sense. The message says what there is. */
export class UsageError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'UsageError';
  }
}

/** @throws {UsageError} listing the known names, unless `name` is one of them */
export function checkName(what: string, name: string, known: readonly string[]): void {
  if (!known.includes(name))
    throw new UsageError(`unknown ${what} ${JSON.stringify(name)}: expected one of ${known.join(', ')}`);
}
