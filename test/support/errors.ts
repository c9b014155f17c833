import { OmniIdError } from '../../src/errors.js';

/** The error that `body` throws or rejects with. Fails when there is none. */
export async function errorOf(body: () => unknown): Promise<Error> {
  try {
    await body();
  } catch (error) {
    if (error instanceof Error) return error;
    throw new Error(`threw ${String(error)}, not an Error`, { cause: error });
  }
  throw new Error('nothing was thrown');
}

/** Fails unless `body` fails with one of the package's errors, of this code and with all of these words in its message. */
export async function assertRejects(
  body: () => unknown,
  code: string,
  ...words: readonly string[]
): Promise<OmniIdError> {
  const error = await errorOf(body);
  if (!(error instanceof OmniIdError) || error.code !== code) {
    throw new Error(`expected ${code}, got ${String(error)}`, { cause: error });
  }
  for (const word of words) {
    if (!error.message.includes(word))
      throw new Error(`expected "${word}" in: ${error.message}`, { cause: error });
  }
  return error;
}
