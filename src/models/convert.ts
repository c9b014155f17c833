import { join } from 'node:path';
import { native } from '../bindings.js';
import { ArgumentError } from '../errors.js';
import { writeFileAtomically } from '../io/atomic_file.js';
import { clipVisionNames, matchWeights, openCheckpoint, registerWeights } from '../io/checkpoint.js';
import { clipVisionConfigToJson, omniIdConfigToJson, parseOmniIdConfig, readJson } from '../io/config.js';
import { isFile } from '../io/files.js';
import { imageProcessorToJson } from '../io/image_processor.js';
import { clipVisionWeights } from './clip_vision.js';
import { ClipVisionEncoder, readClipFolder } from './clip_vision_encoder.js';
import { OmniIdEncoder, omniIdWeights } from './omni_id_encoder.js';
import { saveModel, type SaveOptions } from './save.js';

/** What a folder holds: an Omni-ID encoder, or a CLIP model (Hugging Face's or OpenCLIP's). */
export type FolderKind = 'omni-id' | 'clip';

/** @throws {FileError} `ERR_FILE`, {ConfigError} `ERR_CONFIG` */
export async function kindOf(folder: string): Promise<FolderKind> {
  const path = join(folder, 'config.json');
  if (!(await isFile(path))) return 'clip'; // OpenCLIP's config has another name; reading it reports what is missing
  const json = await readJson(path);
  return typeof json === 'object' && json !== null && 'encoder' in json ? 'omni-id' : 'clip';
}

/**
 * Copies a model to another folder in our published form: Hugging Face's names (so OpenCLIP's are renamed and `in_proj` is cut), one file, and the element type
 * that is asked for. Peak memory: 16 MiB.
 * @throws what {@link OmniIdEncoder.load} and {@link OmniIdEncoder.save} throw
 */
export async function convertModel(
  source: string,
  out: string,
  options: SaveOptions = {},
): Promise<FolderKind> {
  const kind = await kindOf(source);
  const weights = new (native().Weights)();
  try {
    if (kind === 'omni-id') {
      const path = join(source, 'config.json');
      const config = parseOmniIdConfig(await readJson(path), path);
      const expected = omniIdWeights(config);
      registerWeights(weights, matchWeights(await openCheckpoint(source), expected, source));
      await saveModel(out, weights, expected, omniIdConfigToJson(config), options);
      return kind;
    }
    const { vision, imageProcessor } = await readClipFolder(source);
    const expected = clipVisionWeights(vision);
    registerWeights(weights, matchWeights(clipVisionNames(await openCheckpoint(source)), expected, source));
    const config = {
      architectures: ['CLIPVisionModel'],
      model_type: 'clip_vision_model',
      ...clipVisionConfigToJson(vision),
    };
    await saveModel(out, weights, expected, config, options);
    // Also where the source has none: OpenCLIP's settings are in its config, and a file from before may be those of another model.
    const processor = { image_processor_type: 'CLIPImageProcessor', ...imageProcessorToJson(imageProcessor) };
    await writeFileAtomically(join(out, 'preprocessor_config.json'), (file) =>
      file.writeFile(`${JSON.stringify(processor, null, 2)}\n`),
    );
    return kind;
  } finally {
    weights.dispose();
  }
}

/**
 * Writes a folder's packed cache.
 * @throws what {@link OmniIdEncoder.load} throws; the signal's reason when aborted, and no cache is left half written
 */
export async function packModel(folder: string, dtype: 'f32' | 'bf16', signal?: AbortSignal): Promise<void> {
  const options = { device: 'cpu', dtype, packedCache: 'write', signal } as const;
  const Encoder = (await kindOf(folder)) === 'omni-id' ? OmniIdEncoder : ClipVisionEncoder;
  const model = await Encoder.load(folder, options);
  model.dispose();
}

/** @throws {ArgumentError} `ERR_INVALID_ARGUMENT` */
export function checkPackDtype(dtype: string): asserts dtype is 'f32' | 'bf16' {
  if (dtype !== 'f32' && dtype !== 'bf16') {
    throw new ArgumentError(`a packed cache is in f32 or bf16, not ${JSON.stringify(dtype)}`);
  }
}
