// The least time that the operators of a training step can take on a card: what they must read and write at the memory's published rate, or
// their multiplications and additions at that of the units that they use, whichever is longer.
import { native } from '../../src/bindings.ts';
import { presets } from '../../src/models/presets.ts';
import { MaskedDecoder } from '../../src/train/decoders.ts';
import { stepGraph } from '../../src/train/step_graph.ts';

const tera = 1e12;
const giga = 1e9;

/**
 * Published peaks, without sparsity: bf16 and TF32 by tensor cores with f32 accumulation, f32 by the other units, and memory.
 * A100 80GB SXM: NVIDIA A100 datasheet (2021). H100 SXM: NVIDIA H100 datasheet (2023). RTX 4090: NVIDIA Ada GPU architecture whitepaper (2022), appendix A.
 * f64 likewise, by the other units; on the RTX 4090 a 64th of f32.
 */
export const cards = [
  {
    name: 'A100',
    bf16: 312 * tera,
    tf32: 156 * tera,
    f32: 19.5 * tera,
    f64: 9.7 * tera,
    memory: 2039 * giga,
  },
  {
    name: 'H100',
    bf16: 989.4 * tera,
    tf32: 494.7 * tera,
    f32: 66.9 * tera,
    f64: 33.5 * tera,
    memory: 3350 * giga,
  },
  {
    name: 'RTX 4090',
    bf16: 165.2 * tera,
    tf32: 82.6 * tera,
    f32: 82.6 * tera,
    f64: (82.6 / 64) * tera,
    memory: 1008 * giga,
  },
];

const products = /^(linear|attention|patch_embedding$)/;
// An f32 product by three TF32 products, which keeps f32's precision.
const productsOfF32 = 3;

/** The operators of a step of few-to-many training with a masked decoder of the encoder's size, bf16, 3 photos and 8 targets of each identity. */
function step(preset, identities) {
  const encoder = presets[preset];
  const { width, heads, mlpRatio, crossBlocks, selfBlocks, layerNormEps } = encoder;
  const { imageSize, patchSize } = encoder.vision;
  const config = { imageSize, patchSize, width, heads, mlpRatio, crossBlocks, selfBlocks, layerNormEps }; // prettier-ignore
  const visible = Math.max(1, Math.round(0.05 * (imageSize / patchSize) ** 2));
  const model = {
    encoder,
    decoders: [new MaskedDecoder({ config, visible })],
    dtype: 'bf16',
    training: { trainable: () => true, recompute: false },
  };
  const shape = { identities, photos: 3 * identities, targets: 8 * identities };
  const kind = { gradients: 'new', update: true, show: false };
  const { parameters } = stepGraph(model, shape, { ...kind, update: false });
  const size = parameters.reduce((sum, { shape: of }) => sum + of.reduce((a, b) => a * b, 1), 0);
  const optimizer = { betas: [0.9, 0.95], epsilon: 1e-8, average: true, size, segments: parameters.length };
  return stepGraph(model, shape, kind, optimizer).nodes;
}

const bytesOf = ({ dtype, shape }) => shape.reduce((a, b) => a * b, 1) * (dtype === 'bf16' ? 2 : 4);

/**
 * What no training step has: the gradient of a gather (of a batch of 64 images of 224 px in patches of 14, whole and in f32, for what learns from
 * pixels), that of a gate (of 8 images of 512 px in FLUX: 1,024 patches and 512 tokens of text of width 3072, with a product that was kept in f32,
 * into products in bf16), and the noise of 8 images of 1024 px (random.cu: 60 operations in double precision for a normal number).
 * @returns the same as {@link roofline}
 */
export function besides() {
  const attributes = { images: 64, channels: 3, height: 224, width: 224, patch: 14 };
  const rows = { dtype: 'f32', shape: [64 * 256, 3 * 14 * 14] };
  const images = { dtype: 'f32', shape: [64, 3, 224, 224] };
  const gather = native().operatorFlops('patch_gather_gradient', [rows, null], attributes);
  const tokens = { dtype: 'f32', shape: [8 * 1536, 3072] };
  const gates = { dtype: 'f32', shape: [8, 3072] };
  const gated = { dtype: 'bf16', shape: tokens.shape };
  const gate = native().operatorFlops('gate_gradient', [tokens, gates, tokens], { output: 'bf16' });
  const ofGate = 2 * bytesOf(tokens) + bytesOf(gated) + 2 * bytesOf(gates);
  const numbers = { dtype: 'f32', shape: [8 * 262144] };
  return [
    { op: 'patch_gather_gradient', output: images, bytes: bytesOf(rows) + bytesOf(images), flops: gather, rate: 'f32' },
    { op: 'gate_gradient', output: gated, bytes: ofGate, flops: gate, rate: 'f32' },
    { op: 'fill_random', output: numbers, bytes: bytesOf(numbers), flops: 60 * numbers.shape[0], rate: 'f64' },
  ].map(({ op, output, bytes, flops, rate }) => ({
    op,
    count: 1,
    largest: `${output.dtype}[${output.shape.join(', ')}]`,
    bytes,
    flops,
    seconds: cards.map((card) => Math.max(bytes / card.memory, flops / card[rate])),
  })); // prettier-ignore
}

/**
 * @param {'nano' | 'h'} preset of the encoder
 * @param {number} identities of the step
 * @returns what each operator does in one step: how often, its largest output, bytes, flops and seconds by card
 */
export function roofline(preset, identities) {
  const all = new Map();
  for (const { op, inputs, outputs, attributes } of step(preset, identities)) {
    const types = inputs.map((input) => (input ? { dtype: input.dtype, shape: [...input.shape] } : null));
    const flops = native().operatorFlops(op, types, attributes);
    const bytes = [...types, ...outputs].reduce((sum, type) => sum + (type ? bytesOf(type) : 0), 0);
    // A product is in bf16 where an operand is, or where a parameter is rounded to it.
    const narrow = inputs.some((input) => input && (input.dtype === 'bf16' || input.compute === 'bf16'));
    const known = all.get(op) ?? {
      op,
      count: 0,
      bytes: 0,
      flops: 0,
      seconds: cards.map(() => 0),
      largest: '',
      most: 0,
    };
    known.count++;
    known.bytes += bytes;
    known.flops += flops;
    for (const [i, card] of cards.entries()) {
      const rate = !products.test(op)
        ? card.f32
        : narrow
          ? card.bf16
          : Math.max(card.f32, card.tf32 / productsOfF32);
      known.seconds[i] += Math.max(bytes / card.memory, flops / rate);
    }
    if (bytes > known.most) {
      known.most = bytes;
      known.largest = `${outputs[0]?.dtype ?? ''}[${outputs[0]?.shape.join(', ') ?? ''}]`;
    }
    all.set(op, known);
  }
  return [...all.values()].sort((a, b) => b.seconds[0] - a.seconds[0]);
}
