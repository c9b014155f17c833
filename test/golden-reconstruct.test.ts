// A trained pair in a folder against PyTorch: tokens of the encoder, prediction and losses of the masked transformer decoder. Every size is
// taken from the case.
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { MaskedTransformerDecoder, OmniIdEncoder, type MtdConfig } from '../src/index.js';
import { parseOmniIdConfig } from '../src/io/config.js';
import { readSafetensors } from '../src/io/safetensors.js';
import { assertClose, relativeError, worstCosine } from './support/assert_close.js';
import { golden, tensorOf } from './support/golden.js';
import { scratchFolder } from './support/people.js';
import { writePair, type PlainTensor } from './support/trained_pair.js';

const test = suite('golden reconstruct');
const scratch = scratchFolder('golden-reconstruct');
const { folder, io, config } = await golden('mtd_training');

interface Case {
  batch: { identities: number; inputs: number; targets: number };
  encoder: { L: number; c: number };
  mtd: { dim: number; heads: number; image: number; n_cross: number; n_self: number; patch: number; ratio: number };
} // prettier-ignore

const { batch, encoder, mtd } = config as unknown as Case;
const patches = (mtd.image / mtd.patch) ** 2;
const indices = io.get('visible');
if (!indices) throw new Error('the case has no visible patches');
const kept = indices.shape.at(-1) ?? 0;

const mtdConfig: MtdConfig = {
  imageSize: mtd.image,
  patchSize: mtd.patch,
  width: mtd.dim,
  heads: mtd.heads,
  mlpRatio: mtd.ratio,
  crossBlocks: mtd.n_cross,
  selfBlocks: mtd.n_self,
  layerNormEps: 1e-5,
  tokenWidth: encoder.c,
  maskRatio: 1 - kept / patches,
  imageMean: [0, 0, 0],
  imageStd: [1, 1, 1],
};

/** [identities][each] pieces of a tensor. */
function nested(data: Float32Array, each: number): Float32Array[][] {
  const size = data.length / batch.identities / each;
  return Array.from({ length: batch.identities }, (_, i) =>
    Array.from({ length: each }, (_, j) => data.slice((i * each + j) * size, (i * each + j + 1) * size)),
  );
}

/** Pictures [3, size, size] as patches [patches, patch² · 3] in MAE's order. */
function patchesOf(pictures: Float32Array): Float32Array {
  const { image, patch } = mtd;
  const across = image / patch;
  return pictures.map((_, index) => {
    const [channel, rest] = [index % 3, Math.floor(index / 3)];
    const [x, y] = [rest % patch, Math.floor(rest / patch) % patch];
    const place = Math.floor(rest / patch ** 2);
    const [column, row] = [place % across, Math.floor(place / across) % across];
    const target = Math.floor(place / across ** 2);
    const at = ((target * 3 + channel) * image + row * patch + y) * image + column * patch + x;
    return pictures[at] ?? NaN;
  });
}

const pair = scratch.at('pair');
const visible = Array.from({ length: batch.identities * batch.targets }, (_, i) =>
  Int32Array.from({ length: kept }, (_, k) => Number(indices.data[i * kept + k])),
);
const masks = nested(tensorOf(io, 'face_mask').data, batch.targets)
  .flat()
  .map((mask) => Uint8Array.from(mask));

test.before(async () => {
  const weights = new Map<string, PlainTensor>();
  for (const [name, { shape, data }] of await readSafetensors(join(folder, 'model.safetensors'))) {
    if (data instanceof Float32Array) weights.set(name, { shape, data });
  }
  const { encoder: e, vision } = config;
  await writePair(pair, { encoder: parseOmniIdConfig({ encoder: e, vision }, 'the case'), mtd: mtdConfig }, weights); // prettier-ignore
});

for (const dtype of ['f32', 'bf16'] as const) {
  test(`${dtype}: tokens, prediction and loss as PyTorch`, async () => {
    await using first = await OmniIdEncoder.load(pair, { dtype });
    await using second = await MaskedTransformerDecoder.load(join(pair, 'mtd'), { dtype });
    assert.equal(second.config, mtdConfig);
    const tokens = await first.embed(nested(tensorOf(io, 'inputs').data, batch.inputs));
    const targets = nested(tensorOf(io, 'targets').data, batch.targets);
    const result = await second.reconstruct(tokens, targets, { visible, masks });
    const actual = patchesOf(result.prediction);
    const expected = tensorOf(io, 'prediction').data;
    assert.equal(result.shape, [targets.flat().length, 3, mtd.image, mtd.image]);
    assert.equal(result.visible, visible);
    const cosine = worstCosine(actual, expected, 3 * mtd.patch ** 2);
    console.log(
      `  ${dtype}: relative error ${relativeError(actual, expected).toExponential(2)}, worst cosine ${cosine}`,
    );
    if (dtype === 'f32') assertClose(actual, expected, 1e-4, 'prediction');
    else assert.ok(cosine >= 0.999, `cosine ${cosine}`);

    // The step's loss counts every pixel of every mask alike: the mean of the targets', weighted by their masks.
    const sizes = masks.map((mask) => mask.reduce((sum, m) => sum + m, 0));
    const loss = result.losses.reduce((sum, one, i) => sum + one * (sizes[i] ?? 0), 0) / sizes.reduce((a, b) => a + b); // prettier-ignore
    const theirs = tensorOf(io, 'loss_0').data;
    assertClose(Float32Array.of(loss), theirs, dtype === 'f32' ? 1e-4 : 1e-2, 'loss');
    const { losses } = await second.losses(tokens, targets, { visible, masks });
    assert.equal(losses, result.losses);
  });
}

test.after(scratch.remove);

test.run();
