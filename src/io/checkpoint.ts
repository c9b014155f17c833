import { stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { native, type NativeWeights, type WeightDType } from '../bindings.js';
import { FileError, FormatError, messageOf, shortened, WeightsError } from '../errors.js';
import { readJson } from './config.js';
import { exists, fileState, type FileState } from './files.js';
import { readSafetensorsHeader, type SafetensorsDType } from './safetensors.js';

/** A tensor in a checkpoint: a slice of a file. */
export interface StoredTensor {
  readonly file: string;
  /** The file's, taken before anything of it was read. */
  readonly fileState: FileState;
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  readonly byteOffset: number;
}

/** A checkpoint's tensors by name; nothing but headers has been read. */
export type Checkpoint = ReadonlyMap<string, StoredTensor>;

const singleFiles = [
  'model.safetensors',
  'open_clip_model.safetensors',
  'open_clip_pytorch_model.safetensors',
];
const indexFiles = ['model.safetensors.index.json', 'open_clip_model.safetensors.index.json'];

const shardIndex = z.object({ weight_map: z.record(z.string(), z.string()) });

async function readFileTensors(file: string): Promise<Map<string, StoredTensor>> {
  const state = await fileState(file);
  const { tensors } = await readSafetensorsHeader(file);
  return new Map(
    [...tensors].map(([name, { dtype, shape, byteOffset }]) => [
      name,
      { file, fileState: state, dtype, shape, byteOffset },
    ]),
  );
}

async function readShards(folder: string, indexPath: string): Promise<Map<string, StoredTensor>> {
  const index = shardIndex.safeParse(await readJson(indexPath));
  if (!index.success) throw new FormatError(`${indexPath} has no weight_map from tensor names to file names`);
  const tensors = new Map<string, StoredTensor>();
  const shards = new Map<string, Map<string, StoredTensor>>();
  for (const [name, shard] of Object.entries(index.data.weight_map)) {
    // A shard lies beside its index: a name with a path could reach any file.
    if (shard !== basename(shard) || shard === '..' || shard === '.') {
      throw new FormatError(
        `${indexPath} names the shard ${JSON.stringify(shard)}, which is not a plain file name`,
      );
    }
    let held = shards.get(shard);
    if (!held) shards.set(shard, (held = await readFileTensors(join(folder, shard))));
    const tensor = held.get(name);
    if (!tensor) throw new FormatError(`${indexPath} says that ${shard} holds ${name}, but it does not`);
    tensors.set(name, tensor);
  }
  return tensors;
}

/**
 * Opens a safetensors file, or a folder with one or with a sharded index.
 * @throws {FileError} `ERR_FILE` when there is none; {FormatError} `ERR_FORMAT` when one breaks the format's rules
 */
export async function openCheckpoint(path: string): Promise<Checkpoint> {
  const status = await stat(path).catch((error: unknown) => {
    throw new FileError(`cannot read ${path}: ${messageOf(error)}`, {
      cause: error,
    });
  });
  if (!status.isDirectory())
    return path.endsWith('.json') ? readShards(join(path, '..'), path) : readFileTensors(path);
  for (const name of singleFiles)
    if (await exists(join(path, name))) return readFileTensors(join(path, name));
  for (const name of indexFiles)
    if (await exists(join(path, name))) return readShards(path, join(path, name));
  throw new FileError(
    `${path} holds no weights: expected one of ${[...singleFiles, ...indexFiles].join(', ')}`,
  );
}

/** Names in published checkpoints that a vision tower has no use for: the text tower, projections, and stored indices. */
const unused = [
  /^text_model\./, /^text_projection(\.|$)/, /^visual_projection\./, /^logit_(scale|bias)$/, /(^|\.)position_ids$/,
  /^visual\.proj$/, /^proj$/, /^transformer\.resblocks\.\d+\.(ln_1|ln_2|attn|mlp)\./, /^token_embedding\./,
  /^positional_embedding$/, /^ln_final\./, /^text\./, /^attn_mask$/,
]; // prettier-ignore

function rowsOf(tensor: StoredTensor, part: number, parts: number): StoredTensor {
  const rows = (tensor.shape[0] ?? 0) / parts;
  const width = tensor.dtype === 'F32' ? 4 : 2;
  const elements = tensor.shape.slice(1).reduce((product, n) => product * n, rows);
  return {
    ...tensor,
    shape: [rows, ...tensor.shape.slice(1)],
    byteOffset: tensor.byteOffset + part * elements * width,
  };
}

/** OpenCLIP's names inside a residual block, and ours. */
const openClipBlock: Readonly<Record<string, string>> = {
  'ln_1.weight': 'layer_norm1.weight',
  'ln_1.bias': 'layer_norm1.bias',
  'ln_2.weight': 'layer_norm2.weight',
  'ln_2.bias': 'layer_norm2.bias',
  'attn.out_proj.weight': 'self_attn.out_proj.weight',
  'attn.out_proj.bias': 'self_attn.out_proj.bias',
  'mlp.c_fc.weight': 'mlp.fc1.weight',
  'mlp.c_fc.bias': 'mlp.fc1.bias',
  'mlp.c_proj.weight': 'mlp.fc2.weight',
  'mlp.c_proj.bias': 'mlp.fc2.bias',
};

const openClipTop: Readonly<Record<string, string>> = {
  class_embedding: 'embeddings.class_embedding',
  positional_embedding: 'embeddings.position_embedding.weight',
  'conv1.weight': 'embeddings.patch_embedding.weight',
  'ln_pre.weight': 'pre_layrnorm.weight',
  'ln_pre.bias': 'pre_layrnorm.bias',
  'ln_post.weight': 'post_layernorm.weight',
  'ln_post.bias': 'post_layernorm.bias',
};

function fromOpenClip(checkpoint: Checkpoint): Map<string, StoredTensor> {
  const renamed = new Map<string, StoredTensor>();
  const prefix = checkpoint.has('visual.conv1.weight') ? 'visual.' : '';
  for (const [name, tensor] of checkpoint) {
    const local = name.startsWith(prefix) ? name.slice(prefix.length) : undefined;
    const block = local === undefined ? null : /^transformer\.resblocks\.(\d+)\.(.+)$/.exec(local);
    if (local !== undefined && openClipTop[local] !== undefined) {
      renamed.set(`vision_model.${openClipTop[local]}`, tensor);
    } else if (block?.[1] !== undefined && block[2] !== undefined) {
      const layer = `vision_model.encoder.layers.${block[1]}.`;
      const fused = /^attn\.in_proj_(weight|bias)$/.exec(block[2]);
      const target = openClipBlock[block[2]];
      if (fused?.[1] !== undefined) {
        for (const [i, projection] of ['q_proj', 'k_proj', 'v_proj'].entries()) {
          renamed.set(`${layer}self_attn.${projection}.${fused[1]}`, rowsOf(tensor, i, 3));
        }
      } else {
        renamed.set(target === undefined ? name : layer + target, tensor);
      }
    } else {
      renamed.set(name, tensor);
    }
  }
  return renamed;
}

/**
 * The tensors of a CLIP checkpoint under the names of Hugging Face's `CLIPVisionModel` (`vision_model.…`): from `CLIPVisionModel`,
 * `CLIPVisionModelWithProjection` and `CLIPModel`, with or without the prefix, and from OpenCLIP, whose fused `in_proj` is cut in three
 * without a copy.
 */
export function clipVisionNames(checkpoint: Checkpoint): Checkpoint {
  if (checkpoint.has('visual.conv1.weight') || checkpoint.has('conv1.weight'))
    return fromOpenClip(checkpoint);
  if (checkpoint.has('embeddings.class_embedding')) {
    return new Map([...checkpoint].map(([name, tensor]) => [`vision_model.${name}`, tensor]));
  }
  return checkpoint;
}

const namesInMessage = 40;

/**
 * Fits a checkpoint to what a model expects: names and shapes.
 * @throws {WeightsError} `ERR_WEIGHTS` with every missing, extra and misshapen name at once
 */
export function matchWeights(
  checkpoint: Checkpoint,
  expected: ReadonlyMap<string, { readonly shape: readonly number[] }>,
  source: string,
): Map<string, StoredTensor> {
  const missing: string[] = [];
  const misshapen: string[] = [];
  const matched = new Map<string, StoredTensor>();
  for (const [name, { shape }] of expected) {
    const tensor = checkpoint.get(name);
    if (!tensor) {
      missing.push(name);
    } else if (tensor.shape.length !== shape.length || tensor.shape.some((n, i) => n !== shape[i])) {
      misshapen.push(`${name}: [${shortened(tensor.shape.join(', '))}], expected [${shape.join(', ')}]`);
    } else if (!['F32', 'F16', 'BF16'].includes(tensor.dtype)) {
      misshapen.push(`${name}: ${tensor.dtype}, expected F32, F16 or BF16`);
    } else {
      matched.set(name, tensor);
    }
  }
  const extra = [...checkpoint.keys()].filter(
    (name) => !expected.has(name) && !unused.some((pattern) => pattern.test(name)),
  );
  if (missing.length + extra.length + misshapen.length > 0) {
    // The message stays readable; the error's fields hold every name.
    const list = (what: string, names: string[]): string => {
      if (names.length === 0) return '';
      const more = names.length > namesInMessage ? `, and ${names.length - namesInMessage} more` : '';
      return `\n${what} (${names.length}): ${names.slice(0, namesInMessage).join(', ')}${more}`;
    };
    throw new WeightsError(
      `the weights in ${source} do not fit the model` +
        list('missing', missing) +
        list('extra', extra) +
        list('misshapen', misshapen),
      { missing, extra, misshapen },
    );
  }
  return matched;
}

/** Maps the files that hold the tensors and names the tensors in `weights`; nothing is copied. */
export function registerWeights(weights: NativeWeights, tensors: ReadonlyMap<string, StoredTensor>): void {
  const binding = native();
  const files = new Map<string, InstanceType<typeof binding.MappedFile>>();
  for (const [name, { file, dtype, shape, byteOffset }] of tensors) {
    let mapped = files.get(file);
    if (!mapped) files.set(file, (mapped = new binding.MappedFile(file)));
    weights.setMapped(name, { dtype: dtype.toLowerCase() as WeightDType, shape }, mapped, byteOffset);
  }
  // The tensors hold the mappings from here on.
  for (const mapped of files.values()) mapped.close();
}
