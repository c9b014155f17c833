import { native } from '../bindings.js';
import { ArgumentError } from '../errors.js';
import { describe } from '../kinds.js';
import { counted } from '../text.js';

/** What callers give a masked transformer decoder beside photos, checked before any native call. */

/**
 * @returns L, the tokens of an identity
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`
 */
export function checkTokens(tokens: unknown, identities: number, width: number): number {
  const { data, shape } = (typeof tokens === 'object' && tokens !== null ? tokens : {}) as {
    data?: unknown;
    shape?: unknown;
  };
  const expected = `{ data: Float32Array, shape: [${identities}, L, ${width}] }`;
  if (!(data instanceof Float32Array) || !Array.isArray(shape))
    throw new ArgumentError(`tokens is ${describe(tokens)}, expected ${expected}`);
  const [count, length, columns] = shape as readonly unknown[];
  if (
    shape.length !== 3 ||
    count !== identities ||
    columns !== width ||
    !Number.isSafeInteger(length) ||
    Number(length) < 1
  ) {
    throw new ArgumentError(`the tokens have the shape [${shape.join(', ')}], expected ${expected}`);
  }
  const elements = identities * Number(length) * width;
  if (data.length !== elements)
    throw new ArgumentError(`the tokens have ${data.length} values, expected ${elements}`);
  const bad = native().firstNotFinite(data);
  if (bad >= 0)
    throw new ArgumentError(`value ${bad} of the tokens is ${String(data[bad])}, expected a finite number`);
  return Number(length);
}

function checkCount(what: string, given: unknown, targets: number): asserts given is readonly unknown[] {
  if (!Array.isArray(given) || given.length !== targets) {
    const list = Array.isArray(given) ? `has ${counted(given.length, 'element')}` : `is ${describe(given)}`;
    throw new ArgumentError(`${what} ${list}, expected one for each of ${counted(targets, 'target')}`);
  }
}

/** @throws {ArgumentError} `ERR_INVALID_ARGUMENT` */
export function checkVisible(visible: unknown, targets: number, patches: number): void {
  checkCount('visible', visible, targets);
  const count = (visible[0] as Int32Array | undefined)?.length;
  for (const [target, list] of visible.entries()) {
    if (!(list instanceof Int32Array) || list.length < 1 || list.length !== count) {
      const given = list instanceof Int32Array ? `has ${list.length} patches` : `is ${describe(list)}`;
      throw new ArgumentError(
        `visible[${target}] ${given}, expected an Int32Array with at least one, as many as the others`,
      );
    }
    const seen = new Set(list);
    const bad = list.find((patch) => patch < 0 || patch >= patches);
    if (bad !== undefined)
      throw new ArgumentError(
        `visible[${target}] has patch ${bad}, expected a whole number from 0 to ${patches - 1}`,
      );
    if (seen.size !== list.length) throw new ArgumentError(`visible[${target}] has a patch twice`);
  }
}

/** @throws {ArgumentError} `ERR_INVALID_ARGUMENT` */
export function checkMasks(masks: unknown, targets: number, imageSize: number): void {
  checkCount('masks', masks, targets);
  for (const [target, mask] of masks.entries()) {
    if (mask === undefined || (mask instanceof Uint8Array && mask.length === imageSize * imageSize)) continue;
    const given = mask instanceof Uint8Array ? `has ${mask.length} pixels` : `is ${describe(mask)}`;
    throw new ArgumentError(
      `masks[${target}] ${given}, expected a Uint8Array of ${imageSize} × ${imageSize}, or undefined`,
    );
  }
}
