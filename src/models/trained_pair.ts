import { join } from 'node:path';
import { ConfigError, FileError } from '../errors.js';
import { readModelConfig } from '../io/config.js';
import { isFile } from '../io/files.js';
import { readHeldOutRecord, type HeldOutRecord } from '../io/held_out_record.js';
import { checkFolder } from '../options.js';
import type { LoadOptions } from './model.js';
import { MaskedTransformerDecoder } from './mtd.js';
import { OmniIdEncoder } from './omni_id_encoder.js';

/** Folder of the decoder within that of its encoder, where training puts it. */
export const mtdFolder = 'mtd';

/** An encoder and the decoder that it was trained with. */
export interface TrainedPair extends AsyncDisposable {
  readonly encoder: OmniIdEncoder;
  readonly decoder: MaskedTransformerDecoder;
  /** Who was kept out of training; undefined when the folder does not say. */
  readonly heldOut: HeldOutRecord | undefined;
}

/**
 * Loads what training has written: an encoder, and its masked transformer decoder in the folder `mtd` within it.
 * @throws what {@link OmniIdEncoder.load} and {@link MaskedTransformerDecoder.load} throw; {FileError} `ERR_FILE` without a decoder;
 *   {ConfigError} `ERR_CONFIG` when the two do not fit
 */
export async function loadPair(folder: string, options: LoadOptions = {}): Promise<TrainedPair> {
  checkFolder(folder);
  const path = join(folder, mtdFolder);
  if ((await isFile(join(folder, 'config.json'))) && !(await isFile(join(path, 'config.json')))) {
    await readModelConfig(folder); // that of a run tells where its model is
    throw new FileError(
      `${folder} has no masked transformer decoder: expected ${join(path, 'config.json')}, as training writes it`,
    );
  }
  const heldOut = await readHeldOutRecord(folder);
  const encoder = await OmniIdEncoder.load(folder, options);
  try {
    const decoder = await MaskedTransformerDecoder.load(path, options);
    const pair: TrainedPair = {
      encoder,
      decoder,
      heldOut,
      async [Symbol.asyncDispose]() {
        await Promise.all([encoder[Symbol.asyncDispose](), decoder[Symbol.asyncDispose]()]);
      },
    };
    const { width } = encoder.config;
    const { tokenWidth } = decoder.config;
    if (tokenWidth === width) return pair;
    await pair[Symbol.asyncDispose]();
    throw new ConfigError(
      `${path} reads identity tokens of width ${tokenWidth}, but those of the encoder in ${folder} have ${width}`,
    );
  } catch (error) {
    encoder.dispose();
    throw error;
  }
}
