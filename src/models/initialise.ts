import type { Session } from '../graph/session.js';
import type { OmniIdEncoderConfig } from '../io/config.js';

/**
 * Standard deviation of a new weight of blocks as in `src/nn/query_blocks.ts`, by the rule of transformers' `CLIPPreTrainedModel._init_weights`
 * (initializer factor 1): products that write to the residual stream are the smaller, the deeper the blocks. What the blocks stand
 * between (queries, positions, patches) uses 0.02, as for ViT's learned tokens. The paper says nothing of it: our choice.
 * @param width of the blocks; @param depth how many there are
 */
export function blockDeviation(name: string, shape: readonly number[], width: number, depth: number): number {
  const intoResidual = 1 / Math.sqrt(2 * Math.max(1, depth));
  if (/\.(to_q|to_k|to_v)\./.test(name)) return 1 / Math.sqrt(shape[1] ?? 1);
  if (name.includes('.to_out.')) return intoResidual / Math.sqrt(width);
  if (name.includes('.mlp.fc1.')) return 1 / Math.sqrt(2 * width);
  if (name.includes('.mlp.fc2.')) return intoResidual / Math.sqrt(shape[1] ?? 1);
  return 0.02;
}

function towerDeviation(name: string, config: OmniIdEncoderConfig): number {
  const { hiddenSize: width, numHiddenLayers: depth } = config.vision;
  if (/\.(q_proj|k_proj|v_proj)\.|\.mlp\.fc2\./.test(name))
    return 1 / Math.sqrt(2 * Math.max(1, depth)) / Math.sqrt(width);
  if (name.includes('.out_proj.')) return 1 / Math.sqrt(width);
  if (name.includes('.mlp.fc1.')) return 1 / Math.sqrt(2 * width);
  if (name.endsWith('class_embedding')) return 1 / Math.sqrt(width);
  return 0.02; // patch and position embeddings
}

/** A new weight's mean and standard deviation: norms 1 and 0, biases 0, all others normal with the spread that is given. */
export function meanAndSpread(
  name: string,
  shape: readonly number[],
  spread: number,
): [mean: number, spread: number] {
  const random = shape.length > 1 || /(class_embedding|mask_token)$/.test(name);
  const mean = !random && /norm[^.]*\.weight$|norm_out\.weight$/.test(name) ? 1 : 0;
  return [mean, random ? spread : 0];
}

/**
 * Gives every weight that is not there yet its initial values: norms 1 and 0, biases 0, all others normal. The values follow from seed, name and
 * index alone (Philox), on every machine. The event loop stays free, and other models of the device take turns with the tensors.
 * @throws the signal's reason when it is aborted: between tensors
 */
export async function initialise(
  session: Session,
  config: OmniIdEncoderConfig,
  expected: ReadonlyMap<string, { readonly shape: readonly number[] }>,
  seed: number,
  signal: AbortSignal,
): Promise<void> {
  const { device, weights } = session;
  const there = new Set(weights.names());
  for (const [name, { shape }] of expected) {
    if (there.has(name)) continue;
    const depth = config.crossBlocks + config.selfBlocks;
    const deviation = name.startsWith('vision_model.')
      ? towerDeviation(name, config)
      : blockDeviation(name, shape, config.width, depth);
    const [mean, spread] = meanAndSpread(name, shape, deviation);
    await session.cancellable(signal, (cancellation) =>
      weights.setNormal(device, name, shape, seed, mean, spread, cancellation),
    );
  }
}
