/**
 * Every error that omni-id throws on purpose: one class per kind, a stable `code` for programs, and a message that
 * names what was given and what was expected. Cancelled work rejects with the `AbortSignal`'s own reason instead.
 */

/** Base of all errors of the package; `instanceof OmniIdError` and `code` tell them apart from bugs. */
export class OmniIdError extends Error {
  /** Stable, documented name of the failure, for example `ERR_IMAGE_NOT_FOUND`. */
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** A caller's mistake in an argument: wrong type, unknown name, value out of range. Found before any native call. */
export class ArgumentError extends OmniIdError {
  declare readonly code: 'ERR_INVALID_ARGUMENT';

  constructor(message: string, options?: ErrorOptions) {
    super('ERR_INVALID_ARGUMENT', message, options);
  }
}

/** Codes of {@link ImageError}. */
export type ImageErrorCode =
  'ERR_IMAGE_NOT_FOUND' | 'ERR_IMAGE_UNREADABLE' | 'ERR_IMAGE_TOO_LARGE' | 'ERR_PIXELS_INVALID';

/** A photo that cannot be used. `identity` and `photo` are its indices in the call, where it was part of one. */
export class ImageError extends OmniIdError {
  declare readonly code: ImageErrorCode;
  readonly identity: number | undefined;
  readonly photo: number | undefined;

  constructor(
    code: ImageErrorCode,
    message: string,
    options: ErrorOptions & { identity?: number | undefined; photo?: number | undefined } = {},
  ) {
    super(code, message, options);
    this.identity = options.identity;
    this.photo = options.photo;
  }
}

/** A file that breaks its format's rules or was cut off: safetensors, a sharded index, tar, .npy. */
export class FormatError extends OmniIdError {
  declare readonly code: 'ERR_FORMAT';

  constructor(message: string, options?: ErrorOptions) {
    super('ERR_FORMAT', message, options);
  }
}

/** Weights that do not fit the model: every missing, extra and misshapen name at once. */
export class WeightsError extends OmniIdError {
  declare readonly code: 'ERR_WEIGHTS';
  /** Names that the model reads and the checkpoint lacks. */
  readonly missing: readonly string[];
  /** Names in the checkpoint that the model has no use for. */
  readonly extra: readonly string[];
  /** Names with the shape (or dtype) that is there and the one that is expected. */
  readonly misshapen: readonly string[];

  constructor(
    message: string,
    lists: { missing?: readonly string[]; extra?: readonly string[]; misshapen?: readonly string[] } = {},
  ) {
    super('ERR_WEIGHTS', message);
    this.missing = lists.missing ?? [];
    this.extra = lists.extra ?? [];
    this.misshapen = lists.misshapen ?? [];
  }
}

/** A `config.json` that is absent, not JSON, or whose values are not those of a model. */
export class ConfigError extends OmniIdError {
  declare readonly code: 'ERR_CONFIG';

  constructor(message: string, options?: ErrorOptions) {
    super('ERR_CONFIG', message, options);
  }
}

/** Reading or writing a file failed; `cause` is the system's error. */
export class FileError extends OmniIdError {
  declare readonly code: 'ERR_FILE';

  constructor(message: string, options?: ErrorOptions) {
    super('ERR_FILE', message, options);
  }
}

/** A data set that cannot be trained on: empty, an identity with nothing readable, a damaged shard. */
export class DatasetError extends OmniIdError {
  declare readonly code: 'ERR_DATASET';

  constructor(message: string, options?: ErrorOptions) {
    super('ERR_DATASET', message, options);
  }
}

/** Tokens or features that are not finite: the weights are damaged, or pixels far outside of any image overflow. */
export class NumericError extends OmniIdError {
  declare readonly code: 'ERR_NOT_FINITE';

  constructor(message: string) {
    super('ERR_NOT_FINITE', message);
  }
}

/** The device asked for does not exist here, has no memory left, or failed in its work (`ERR_DEVICE`: the message says how). */
export class DeviceError extends OmniIdError {
  declare readonly code: 'ERR_DEVICE_UNAVAILABLE' | 'ERR_OUT_OF_MEMORY' | 'ERR_DEVICE';
}

/** An object was used after `dispose()`, or disposed of while the call was under way. */
export class DisposedError extends OmniIdError {
  declare readonly code: 'ERR_DISPOSED';

  constructor(message: string) {
    super('ERR_DISPOSED', message);
  }
}

/** A signal of the system, as Ctrl-C sends it, ended work before it was done. */
export class InterruptedError extends OmniIdError {
  declare readonly code: 'ERR_INTERRUPTED';
  readonly signal: 'SIGINT' | 'SIGTERM';

  constructor(signal: 'SIGINT' | 'SIGTERM', message: string) {
    super('ERR_INTERRUPTED', message);
    this.signal = signal;
  }
}

/** The native addon could not be loaded: names the platform, what was tried and what to do. */
export class AddonError extends OmniIdError {
  declare readonly code: 'ERR_ADDON';

  constructor(message: string, options?: ErrorOptions) {
    super('ERR_ADDON', message, options);
  }
}

/**
 * What an error says, for messages that quote it; anything can be thrown.
 * @internal
 */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/**
 * A text that may come from a file, at a length that a message can hold.
 * @internal
 */
export function shortened(text: string): string {
  return text.length > 120 ? `${text.slice(0, 120)}… (${text.length} characters)` : text;
}
