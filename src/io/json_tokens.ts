import type { IdentityTokens } from '../models/omni_id_encoder.js';

/**
 * Identity tokens as JSON, an identity a piece: in one, the tokens of a thousand identities are longer than a string of V8's can be
 * (536,870,888 characters).
 */
export function* jsonTokens(
  { data, shape, photos }: Pick<IdentityTokens, 'data' | 'shape' | 'photos'>,
  names: readonly string[],
): Generator<string> {
  const [, tokens = 0, width = 0] = shape;
  yield `{"shape":${JSON.stringify(shape)},"identities":[`;
  for (const [i, name] of names.entries()) {
    const rows = Array.from({ length: tokens }, (_, t) => [
      ...data.subarray((i * tokens + t) * width, (i * tokens + t + 1) * width),
    ]);
    yield `${i === 0 ? '' : ','}${JSON.stringify({ name, photos: photos[i], tokens: rows })}`;
  }
  yield ']}\n';
}
