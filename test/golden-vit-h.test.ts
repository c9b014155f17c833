// ViT-H/14 at full size, with weights and input made from a formula: 632 million parameters, 32 layers. All instruction sets share one
// process and one copy of the packed weights, whose layout is the same for all.
import { test } from 'uvu';
import { native } from '../src/bindings.js';
import { Session } from '../src/graph/session.js';
import { PhotoLoader } from '../src/data/photo_loader.js';
import { parseClipVisionConfig } from '../src/io/config.js';
import { defaultImageProcessor } from '../src/io/image_processor.js';
import { VisionPipeline } from '../src/models/vision_pipeline.js';
import { assertClose, relativeError, worstCosine } from './support/assert_close.js';
import { golden, tensorOf } from './support/golden.js';
import { procedural, proceduralWeight } from './support/procedural.js';

const name = 'clip_vision_h_procedural';
const { config: json, io } = await golden(name);
const config = parseClipVisionConfig(json, name);
const weights = new (native().Weights)();
for (const [weight, shape] of Object.entries(json['parameters'] as Record<string, number[]>)) {
  weights.set(weight, shape, proceduralWeight(weight, shape));
}
const pixels = procedural(json['input'] as string, 3 * config.imageSize ** 2, 0, 1.7);
const outputs = {
  last_hidden_state: 'last_hidden_state',
  penultimate: 'penultimate_hidden_state',
  pooled: 'pooler_output',
} as const;

test('the procedural weights are those of the case', () => {
  const probe = tensorOf(io, 'probe.class_embedding[:8]').data;
  const made = proceduralWeight('vision_model.embeddings.class_embedding', [config.hiddenSize]).subarray(
    0,
    8,
  );
  assertClose(made, probe, 0, 'class_embedding');
});

for (const isa of native().instructionSets()) {
  for (const dtype of ['f32', 'bf16'] as const) {
    test(`${name} on ${isa} in ${dtype}`, async () => {
      const session = new Session(new (native().Device)('cpu', undefined, isa), weights);
      const pipeline = new VisionPipeline(session, config, defaultImageProcessor(config.imageSize), dtype);
      for (const [feature, output] of Object.entries(outputs) as [keyof typeof outputs, string][]) {
        // The penultimate state is computed on the way to the last: the slowest instruction sets skip the repetition.
        if (feature === 'penultimate' && isa === 'portable') continue;
        const expected = tensorOf(io, output);
        const out = session.tensor({ dtype: 'f32', shape: [pipeline.rows(feature), config.hiddenSize] });
        const photos = [{ photo: 0, source: pixels }];
        await pipeline.run(photos, new PhotoLoader(photos, {}), feature, out, {});
        const actual = out.read(0, expected.data.length) as Float32Array;
        const cosine = worstCosine(actual, expected.data, config.hiddenSize);
        console.log(
          `  ${output} on ${isa} in ${dtype}: relative error ${relativeError(actual, expected.data).toExponential(2)}, worst cosine ${cosine.toFixed(7)}`,
        );
        if (dtype === 'f32') assertClose(actual, expected.data, 1e-3, output);
        else if (!(cosine >= 0.9999)) throw new Error(`${output}: cosine ${cosine}, at least 0.9999`);
        out.dispose();
      }
    });
  }
}

test.run();
