import { backward, type Seed } from '../graph/backward.js';
import { Graph, type Training, type Value } from '../graph/graph.js';
import { add, first } from '../graph/operators.js';
import type { OmniIdEncoderConfig } from '../io/config.js';
import { clipVision, tokensPerImage } from '../models/clip_vision.js';
import { omniEncoder } from '../models/omni_encoder.js';
import { Scope } from '../nn/scope.js';
import type { Decoder } from './decoders.js';

/** How many of everything a step, or a micro-batch of one, has. */
export interface StepShape {
  readonly identities: number;
  /** Photos that ℓ is made from, of all identities together. */
  readonly photos: number;
  /** Photos that are rebuilt, of all identities together. */
  readonly targets: number;
}

/** What a step does besides its forward pass. */
export interface StepKind {
  /** Gradients of the loss: none, in place of those that were there, or added to them. */
  readonly gradients: 'none' | 'new' | 'more';
  /** Whether the parameters are updated by them. */
  readonly update: boolean;
  /** Whether ℓ and predictions can be read. */
  readonly show: boolean;
}

/** The optimizer's sizes and constants, see `native/operators/optimizer.cpp`. */
export interface OptimizerConfig {
  readonly betas: readonly [number, number];
  readonly epsilon: number;
  /** Whether a moving average of the values is kept. */
  readonly average: boolean;
  /** Floats of every vector. */
  readonly size: number;
  /** Stretches of the vectors with a learning rate and decay of their own, whose gradients count in the norm or do not. */
  readonly segments: number;
}

/** What a step is made of, besides its shape. */
export interface StepModel {
  readonly encoder: OmniIdEncoderConfig;
  readonly decoders: readonly Decoder[];
  readonly dtype: 'f32' | 'bf16';
  readonly training: Training;
}

/**
 * ℓ of all identities from their photos.
 *
 * Inputs: `pixels` f32 [photos, 3, size, size], normalised; `photo_starts` i32 [identities] and `photo_offsets` i32 [identities + 1] as
 * in {@link omniEncoder}; `query_starts`, `query_offsets`.
 */
function encode({ encoder, dtype }: StepModel, graph: Graph, { identities, photos }: StepShape): Value {
  const { imageSize } = encoder.vision;
  const w = new Scope(graph, dtype, 'encoder.');
  const pixels = graph.input('pixels', 'f32', [photos, 3, imageSize, imageSize]);
  const features = clipVision(w.at('vision_model'), encoder.vision, pixels, encoder.features);
  const rows = photos * tokensPerImage(encoder.vision);
  const starts = graph.input('photo_starts', 'i32', [identities]);
  const offsets = graph.input('photo_offsets', 'i32', [identities + 1]);
  return omniEncoder(w, encoder, features, identities, { starts, offsets, rows });
}

/**
 * One step of few-to-many training (paper, section 3.2): ℓ once for every identity, every decoder's loss on all of its targets, and the way back.
 *
 * Outputs: `loss NAME` f32 [1] of every decoder, not weighted; `gradient NAMES` for every parameter; with `update` those of
 * {@link update}; with `show` `tokens` and `prediction NAME`. Inputs besides the encoder's and the decoders': `parameter NAMES`;
 * `seed NAME` f32 [1], what a decoder's loss counts; `gradient so far NAMES` where gradients are added to others.
 */
export function stepGraph(
  model: StepModel,
  shape: StepShape,
  kind: StepKind,
  optimizer?: OptimizerConfig,
): Graph {
  const graph = new Graph(model.training);
  const tokens = encode(model, graph, shape);
  const seeds: Seed[] = [];
  const losses: Value[] = [];
  for (const decoder of model.decoders) {
    const w = new Scope(graph, model.dtype, `${decoder.name}.`);
    const { loss, prediction } = decoder.build(w, tokens, shape);
    graph.output(`loss ${decoder.name}`, loss);
    losses.push(loss);
    if (kind.show && prediction) graph.output(`prediction ${decoder.name}`, prediction);
    if (kind.gradients !== 'none') {
      seeds.push({ value: loss, gradient: graph.input(`seed ${decoder.name}`, 'f32', [1]) });
    }
  }
  if (kind.show) graph.output('tokens', tokens);
  if (kind.gradients !== 'none') {
    const { parameters } = graph;
    const sums = new Map<number, Value>();
    if (kind.gradients === 'more') {
      for (const { names, shape: size, value } of parameters) {
        sums.set(value.index, graph.input(`gradient so far ${names.join('+')}`, 'f32', size));
      }
    }
    const values = parameters.map(({ value }) => value);
    for (const [i, gradient] of backward(graph, seeds, values, sums).entries()) {
      if (gradient) graph.output(`gradient ${parameters[i]?.names.join('+') ?? ''}`, gradient);
    }
  }
  if (kind.update && optimizer) update(graph, losses, optimizer);
  return graph;
}

/**
 * The optimizer's step. Inputs `optimizer NAME`: vectors `values`, `gradients`, `firstMoments`, `secondMoments`, `average`, and `settings`,
 * `segments`, `counted`, `rates`, `decays`; `far below zero` f32 [1]. Outputs: `norm` f32 [1] of all gradients that count, not finite when a loss is not, and
 * `optimizer new NAME` for each vector but the gradients.
 */
function update(
  graph: Graph,
  losses: readonly Value[],
  { betas, epsilon, average, size, segments }: OptimizerConfig,
): void {
  const vector = (name: string): Value => graph.input(`optimizer ${name}`, 'f32', [size]);
  const gradients = vector('gradients');
  const ofSegments = graph.input('optimizer segments', 'i32', [segments + 1]);
  const counted = graph.input('optimizer counted', 'f32', [segments]);
  let norm = first(graph.apply('gradient_norm', [gradients, ofSegments, counted]));
  // The gradient of |prediction − target| is finite where the difference itself is infinite. Such a step must change nothing either, and
  // that is decided here, before anybody has read the loss: the slope of an activation far below zero is 0, and 0 times a loss is 0, or NaN
  // of one that is not finite.
  const farBelowZero = graph.input('far below zero', 'f32', [1]);
  for (const loss of losses) {
    const nothing = graph.apply('activation_gradient', [loss, farBelowZero], { activation: 'quick_gelu' });
    norm = add(norm, first(nothing));
  }
  graph.output('norm', norm);
  const outputs = graph.apply(
    'adamw',
    [
      vector('values'),
      gradients,
      vector('firstMoments'),
      vector('secondMoments'),
      norm,
      graph.input('optimizer settings', 'f32', [5]),
      ofSegments,
      graph.input('optimizer rates', 'f32', [segments]),
      graph.input('optimizer decays', 'f32', [segments]),
      average ? vector('average') : undefined,
    ],
    { beta1: betas[0], beta2: betas[1], epsilon },
  );
  for (const [i, name] of ['values', 'firstMoments', 'secondMoments', 'average'].entries()) {
    const output = outputs[i];
    if (output) graph.output(`optimizer new ${name}`, output);
  }
}
