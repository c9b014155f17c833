import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { visiblePatches } from '../../src/data/visible_patches.js';
import { translated } from '../../src/graph/session.js';
import { omniIdConfigToJson, type OmniIdEncoderConfig } from '../../src/io/config.js';
import { writeSafetensors } from '../../src/io/safetensors_writer.js';
import {
  patchesPerTarget,
  type MaskedTransformerDecoderConfig,
} from '../../src/models/masked_transformer_decoder.js';
import { MaskedDecoder } from '../../src/train/decoders.js';
import { ParameterGroups } from '../../src/train/parameter_groups.js';
import { ParameterLayout, type Slot } from '../../src/train/parameters.js';
import { trainingPresets } from '../../src/train/presets.js';
import { stepGraph, type StepModel, type StepShape } from '../../src/train/step_graph.js';
import { procedural } from '../../test/support/procedural.js';
import { benchFolder, configOf, formula, pixelsOf, proceduralSource, type Size } from '../fixtures.js';

/** One configuration of few-to-many training: encoder and masked transformer decoder of the same width, patch and image. */
export interface TrainingCase {
  readonly size: Size;
  readonly encoder: OmniIdEncoderConfig;
  readonly decoder: MaskedTransformerDecoderConfig;
  /** Patches of a target that stay visible. */
  readonly visible: number;
  readonly identities: number;
  /** Photos of each identity that ℓ is made from, and that are rebuilt. */
  readonly inputs: number;
  readonly targets: number;
}

/** AdamW and clipping as the trainer's configuration has them by default; no warm-up, no average. */
export const optimizer = {
  learningRate: 3e-4,
  betas: [0.9, 0.95],
  epsilon: 1e-8,
  weightDecay: 0.05,
  clipGradNorm: 1,
} as const;

/** Masked share of a target, as in the paper. */
const maskRatio = 0.95;

const batches: Record<Size, Pick<TrainingCase, 'identities' | 'inputs' | 'targets'>> = {
  tiny: { identities: 2, inputs: 2, targets: 3 },
  'nano-synth': trainingPresets['nano-synth'].sampling,
  nano: { identities: 4, inputs: 3, targets: 8 },
  l: { identities: 1, inputs: 3, targets: 4 },
  h: { identities: 1, inputs: 3, targets: 4 },
};

export function trainingCase(size: Size): TrainingCase {
  const encoder = configOf(size);
  const { width, heads, mlpRatio, crossBlocks, selfBlocks, layerNormEps, vision } = encoder;
  const { imageSize, patchSize } = vision;
  const decoder = { imageSize, patchSize, width, heads, mlpRatio, crossBlocks, selfBlocks, layerNormEps };
  const visible = visiblePatches(patchesPerTarget(decoder), maskRatio);
  return { size, encoder, decoder, visible, ...batches[size] };
}

export function stepModel(one: TrainingCase, dtype: 'f32' | 'bf16'): StepModel {
  return {
    encoder: one.encoder,
    decoders: [new MaskedDecoder({ config: one.decoder, visible: one.visible })],
    dtype,
    training: { trainable: () => true, recompute: false },
  };
}

export function stepShape({ identities, inputs, targets }: TrainingCase): StepShape {
  return { identities, photos: identities * inputs, targets: identities * targets };
}

/** All parameters of a case: they do not depend on the type that is computed in. */
export function layoutOf(one: TrainingCase): ParameterLayout {
  const graph = translated(() =>
    stepGraph(stepModel(one, 'f32'), stepShape(one), { gradients: 'none', update: false, show: false }),
  );
  return new ParameterLayout(graph.parameters);
}

const groups = new ParameterGroups({
  frozen: [],
  noDecay: ['*queries', '*position_embedding*', '*pos_embed*', '*mask_token'],
});

/** Whether weight decay applies to a parameter: what both sides are told. */
export function decays({ name, shape }: Pick<Slot, 'name' | 'shape'>): boolean {
  return groups.role(name, shape).decay;
}

/** A folder with the parameters of a case as `model.safetensors`, which follow from a formula; made once. */
export async function parametersFolder(
  one: TrainingCase,
  log: (message: string) => void,
): Promise<{ folder: string; parameters: readonly Slot[] }> {
  const parameters = layoutOf(one).slots;
  const json = JSON.stringify(parameters.map(({ name, shape }) => [name, shape]));
  const key = createHash('sha256').update(formula).update(json).digest('hex').slice(0, 12);
  const folder = join(benchFolder(), `training-${one.size}-${key}`);
  // Written last: where it is, the weights are whole.
  const done = join(folder, 'parameters.json');
  if (existsSync(done) && readFileSync(done, 'utf8') === json) return { folder, parameters };
  log(`making the parameters of "${one.size}" in ${folder}`);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await writeSafetensors(join(folder, 'model.safetensors'), parameters.map(proceduralSource));
  await writeFile(done, json);
  return { folder, parameters };
}

/** What a step is given, in the order of its identities. */
export interface Batch {
  /** f32 [identities · inputs, 3, size, size] */
  readonly inputs: Float32Array;
  /** f32 [identities · targets, 3, size, size] */
  readonly targets: Float32Array;
  /** 1 inside the face, else 0: f32 [identities · targets, 1, size, size] */
  readonly mask: Float32Array;
  /** Patches: i32 [identities · targets, visible], different ones for every target. */
  readonly visible: Int32Array;
}

/** A batch that follows from a formula. */
export function batchOf({ decoder, visible, ...one }: TrainingCase): Batch {
  const { imageSize } = decoder;
  const photos = (first: number, count: number): Float32Array => {
    const all = new Float32Array(count * 3 * imageSize ** 2);
    for (let i = 0; i < count; i++) all.set(pixelsOf(first + i, imageSize), i * 3 * imageSize ** 2);
    return all;
  };
  const count = one.identities * one.targets;
  const face = Float32Array.from({ length: imageSize ** 2 }, (_, i) => {
    const [x, y] = [(i % imageSize) / imageSize - 0.5, Math.floor(i / imageSize) / imageSize - 0.5];
    return (x / 0.35) ** 2 + (y / 0.45) ** 2 <= 1 ? 1 : 0;
  });
  const mask = new Float32Array(count * imageSize ** 2);
  const chosen = new Int32Array(count * visible);
  for (let target = 0; target < count; target++) {
    mask.set(face, target * imageSize ** 2);
    const keys = procedural(`visible ${target}`, patchesPerTarget(decoder), 0, 1);
    const order = [...keys.keys()].sort((a, b) => (keys[a] ?? 0) - (keys[b] ?? 0));
    chosen.set(order.slice(0, visible), target * visible);
  }
  const given = one.identities * one.inputs;
  return { inputs: photos(0, given), targets: photos(given, count), mask, visible: chosen };
}

/** Writes a batch, each part as a file of its own: `inputs`, `targets`, `mask`, `visible`. */
export function writeBatch(folder: string, batch: Batch): void {
  mkdirSync(folder, { recursive: true });
  for (const [name, values] of Object.entries(batch) as [string, Float32Array | Int32Array][])
    writeFileSync(join(folder, name), new Uint8Array(values.buffer));
}

/** What tells a contestant in another language the sizes of the case. */
export function caseJson({ encoder, decoder, ...rest }: TrainingCase): Record<string, unknown> {
  return { ...rest, encoder: omniIdConfigToJson(encoder), decoder };
}
