import type { Session } from '../graph/session.js';
import type { OmniIdEncoderConfig } from '../io/config.js';
import type { MtdConfig } from '../io/mtd_config.js';
import { sinCosPositions } from './positions.js';

/**
 * Standard deviation of a new weight. The vision tower follows transformers' `CLIPPreTrainedModel._init_weights` (initializer factor 1): products that
 * write to the residual stream are the smaller, the deeper the tower. The head, of which the paper says nothing, uses the same rule for its blocks: our choice.
 *
 * Positions and queries are ours too: as large as what norms make of features. With transformers' 0.02 they drown in what the photo gives, every token
 * averages over all places alike, and where features lie is lost before anything is learned (docs/choices.md has the numbers).
 */
function encoderDeviation(name: string, shape: readonly number[], config: OmniIdEncoderConfig): number {
  const tower = name.startsWith('vision_model.');
  const width = tower ? config.vision.hiddenSize : config.width;
  const depth = tower ? config.vision.numHiddenLayers : config.crossBlocks + config.selfBlocks;
  const intoResidual = 1 / Math.sqrt(2 * Math.max(1, depth));
  if (/\.(q_proj|k_proj|v_proj)\.|\.mlp\.fc2\./.test(name))
    return tower ? intoResidual / Math.sqrt(width) : intoResidual / Math.sqrt(shape[1] ?? 1);
  if (/\.(to_q|to_k|to_v)\./.test(name)) return 1 / Math.sqrt(shape[1] ?? 1);
  if (name.includes('.out_proj.')) return 1 / Math.sqrt(width);
  if (name.includes('.to_out.')) return intoResidual / Math.sqrt(width);
  if (name.includes('.mlp.fc1.')) return 1 / Math.sqrt(2 * width);
  if (name.endsWith('class_embedding')) return 1 / Math.sqrt(width);
  if (name.endsWith('.position_embedding.weight') || name === 'queries') return 1;
  return 0.02; // patch embedding
}

/**
 * The same of the masked transformer decoder: the rule of the encoder's blocks; 0.02 for mask token and head, as in MAE, so that the first
 * predictions are near the photos' mean.
 */
function mtdDeviation(name: string, shape: readonly number[], depth: number): number {
  const intoResidual = 1 / Math.sqrt(2 * Math.max(1, depth));
  const inputs = shape[1] ?? 1;
  if (/\.to_out\.|\.mlp\.fc2\./.test(name)) return intoResidual / Math.sqrt(inputs);
  if (/\.(to_q|to_k|to_v)\.|^patch_embed\./.test(name)) return 1 / Math.sqrt(inputs);
  if (name.includes('.mlp.fc1.')) return 1 / Math.sqrt(2 * inputs);
  return 0.02; // mask token, head
}

/**
 * Gives every weight of a masked transformer decoder that is not there yet its initial values. Positions begin as sines and cosines, as in MAE: what
 * the first blocks add to the residual stream would drown small random ones, and where a patch lies is what a decoder has to know first.
 * @param config sizes of its blocks; @param expected its weights, without a prefix
 * @throws the signal's reason when it is aborted: between tensors
 */
export async function initialiseMtd(
  session: Session,
  config: Pick<MtdConfig, 'crossBlocks' | 'selfBlocks'>,
  expected: ReadonlyMap<string, { readonly shape: readonly number[] }>,
  seed: number,
  signal: AbortSignal,
): Promise<void> {
  const positions = expected.get('pos_embed');
  if (positions) {
    const [patches = 0, width = 0] = positions.shape;
    session.weights.set('pos_embed', [patches, width], sinCosPositions(patches, width));
  }
  const depth = config.crossBlocks + config.selfBlocks;
  // The encoder has blocks of the same names: weights of a name of one's own, so that the two do not begin alike.
  await setNormal(session, expected, seed, signal, (name, shape) => mtdDeviation(name, shape, depth), 'mtd.');
}

/**
 * Gives every weight of an encoder that is not there yet its initial values.
 * @throws the signal's reason when it is aborted: between tensors
 */
export async function initialise(
  session: Session,
  config: OmniIdEncoderConfig,
  expected: ReadonlyMap<string, { readonly shape: readonly number[] }>,
  seed: number,
  signal: AbortSignal,
): Promise<void> {
  await setNormal(session, expected, seed, signal, (name, shape) => encoderDeviation(name, shape, config));
}

/**
 * Gives every weight that is not there yet its initial values: norms 1 and 0, biases 0, all others normal. The values follow from seed, name and
 * index alone (Philox), on every machine. The event loop stays free, and other models of the device take turns with the tensors.
 * @param deviation the standard deviation of a weight that is not constant
 * @param prefix of the names that values follow from
 * @throws the signal's reason when it is aborted: between tensors
 */
async function setNormal(
  session: Session,
  expected: ReadonlyMap<string, { readonly shape: readonly number[] }>,
  seed: number,
  signal: AbortSignal,
  deviation: (name: string, shape: readonly number[]) => number,
  prefix = '',
): Promise<void> {
  const { device, weights } = session;
  const there = new Set(weights.names());
  for (const [name, { shape }] of expected) {
    if (there.has(name)) continue;
    const random = shape.length > 1 || /(^|\.)(class_embedding|mask_token)$/.test(name);
    const mean = !random && /norm[^.]*\.weight$|norm_out\.weight$/.test(name) ? 1 : 0;
    const spread = random ? deviation(name, shape) : 0;
    await session.cancellable(signal, (cancellation) =>
      weights.setNormal(device, name, shape, seed, mean, spread, cancellation, `${prefix}${name}`),
    );
  }
}
