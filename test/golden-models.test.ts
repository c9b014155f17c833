// The peers' numbers (test/golden, or OMNI_ID_GOLDEN): CLIP's vision tower of transformers, and the encoder of the design in PyTorch. Every
// size is taken from the case.
import { test } from 'uvu';
import { ClipVisionEncoder, OmniIdEncoder, type ComputeDType } from '../src/index.js';
import { assertClose, relativeError, worstCosine } from './support/assert_close.js';
import { golden, tensorOf } from './support/golden.js';

const dtypes = ['f32', 'bf16'] as const satisfies ComputeDType[];

function check(
  what: string,
  dtype: ComputeDType,
  actual: Float32Array,
  expected: { shape: readonly number[]; data: Float32Array },
): void {
  const width = expected.shape.at(-1) ?? 1;
  const cosine = worstCosine(actual, expected.data, width);
  console.log(
    `  ${what} ${dtype}: relative error ${relativeError(actual, expected.data).toExponential(2)}, worst cosine ${cosine.toFixed(7)}`,
  );
  if (dtype === 'f32') assertClose(actual, expected.data, 1e-4, what);
  else if (!(cosine >= 0.999)) throw new Error(`${what}: cosine ${cosine}, at least 0.999`);
}

function slices(data: Float32Array, count: number): Float32Array[] {
  const size = data.length / count;
  return Array.from({ length: count }, (_, i) => data.slice(i * size, (i + 1) * size));
}

for (const name of ['clip_vision_gelu', 'clip_vision_quick_gelu']) {
  for (const dtype of dtypes) {
    test(`${name} ${dtype}`, async () => {
      const { folder, io } = await golden(name);
      await using model = await ClipVisionEncoder.load(folder, { dtype });
      const pixels = tensorOf(io, 'pixel_values');
      const photos = slices(pixels.data, pixels.shape[0] ?? 0);
      const outputs = {
        last_hidden_state: 'last_hidden_state',
        penultimate: 'penultimate_hidden_state',
        pooled: 'pooler_output',
      } as const;
      for (const [feature, output] of Object.entries(outputs)) {
        const { data } = await model.embedImages(photos, { feature: feature as keyof typeof outputs });
        check(`${name} ${output}`, dtype, data, tensorOf(io, output));
      }
    });
  }
}

for (const dtype of dtypes) {
  test(`omni_encoder ${dtype}`, async () => {
    const { folder, io } = await golden('omni_encoder');
    await using model = await OmniIdEncoder.load(folder, { dtype });
    const cases = [...io.keys()].filter((name) => name.startsWith('images_'));
    if (cases.length === 0) throw new Error('the case omni_encoder holds no images');
    for (const name of cases) {
      const images = tensorOf(io, name);
      const [identities = 0, photos = 0] = images.shape;
      const grouped = slices(images.data, identities).map((one) => slices(one, photos));
      const { data } = await model.embed(grouped);
      check(`omni_encoder ${name}`, dtype, data, tensorOf(io, name.replace('images', 'tokens')));
    }
  });
}

test.run();
