// The trainer with a decoder of another kind than the masked one: nothing in it may know more of a decoder than the interface says.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import sharp from 'sharp';
import { RenderedDataset } from '../src/data/rendered_dataset.js';
import type { Value } from '../src/graph/graph.js';
import { linear, maskedL1 } from '../src/graph/operators.js';
import type { Session } from '../src/graph/session.js';
import type { Scope } from '../src/nn/scope.js';
import type { Decoder, DecoderTensors, ExportedDecoder, TargetPicture, TargetShape } from '../src/train/decoders.js'; // prettier-ignore
import { exportModel, trainedWeights } from '../src/train/export.js';
import { HeldOut } from '../src/train/held_out.js';
import { runWeights, writeInitialWeights } from '../src/train/initial_weights.js';
import { decodersOf, openEngine } from '../src/train/run_parts.js';
import { at, cleanUp, floatsOf, tinyConfig } from './support/tiny_run.js';

test.after(cleanUp);

/** Tells one number of every token: its loss is how far that is from 1. It has nothing to show of a target but a grey picture. */
class NumberDecoder implements Decoder {
  readonly name = 'number';
  readonly weight = 0.5;

  constructor(private readonly tokens: number) {}

  initialise(session: Session, expected: ReadonlyMap<string, { readonly shape: readonly number[] }>) {
    for (const [name, { shape }] of expected)
      session.weights.set(name, shape, new Float32Array(shape.reduce((product, n) => product * n, 1)));
    return Promise.resolve();
  }

  build(w: Scope, tokens: Value, { identities }: TargetShape): { loss: Value } {
    const rows = identities * this.tokens;
    const one = (name: string): Value => w.graph.input(`${this.name}.${name}`, 'f32', [rows, 1, 1, 1]);
    const prediction = linear(tokens, w.matrix('head.weight', [1, tokens.columns]), { bias: w.vector('head.bias', [1]) }); // prettier-ignore
    const normalizer = w.graph.input(`${this.name}.normalizer`, 'f32', [1]);
    return { loss: maskedL1(prediction, one('targets'), one('mask'), normalizer, 1) };
  }

  tensors(session: Session, targets: number): DecoderTensors {
    const rows = (targets / 3) * this.tokens;
    const [ones, normalizer] = [rows, 1].map((count) => session.tensor({ dtype: 'f32', shape: [count] }));
    if (!ones || !normalizer) throw new Error('no memory');
    ones.write(new Float32Array(rows).fill(1), 0);
    normalizer.write(Float32Array.of(rows), 0);
    const names = { targets: ones, mask: ones, normalizer };
    const places = Object.entries(names).map(([name, tensor]) => [`number.${name}`, { tensor, element: 0 }]);
    return {
      fill: () => Promise.resolve(),
      part: () => Object.fromEntries(places) as ReturnType<DecoderTensors['part']>,
      dispose: () => {
        ones.dispose();
        normalizer.dispose();
      },
    };
  }

  predictionSize(): number {
    return 0;
  }

  pictures(_: unknown, __: number, { width, height }: { width: number; height: number }): TargetPicture[] {
    return [{ label: 'grey', picture: { data: new Uint8Array(3 * width * height).fill(77), width, height } }];
  }

  exported(_: unknown, weights: readonly string[]): ExportedDecoder {
    return { config: { model_type: 'number' }, weights: weights.filter((name) => name !== 'head.bias') };
  }
}

test('held-out losses, pictures and the exported model are what the decoder gives', async () => {
  const config = tinyConfig();
  const number = new NumberDecoder(config.encoder.tokens);
  const dataset = new RenderedDataset({ identities: 2, views: 5 });
  for (const decoders of [[number], [number, ...decodersOf(config)], [...decodersOf(config), number]]) {
    const engine = openEngine(config, decoders);
    await writeInitialWeights(config, engine, new AbortController().signal);
    const heldOut = new HeldOut(config, engine, dataset, (problem) => {
      throw new Error(JSON.stringify(problem));
    });
    // Zeros are 1 away from 1.
    const loss = await heldOut.loss();
    if (decoders.length === 1) assert.ok(Math.abs(loss - 0.5) < 1e-6, `${loss}`);
    else assert.ok(loss > 0.5);
    const { data, info } = await sharp((await heldOut.draw()).png)
      .raw()
      .toBuffer({ resolveWithObject: true });
    const grey = data.filter((byte, i) => byte === 77 && data[i - (i % info.channels)] === 77).length / 3;
    const shows = decoders[0] === number;
    // Three targets of each of two people, at 28 pixels.
    assert.is(Math.floor(grey) >= 6 * 28 * 28, shows, `${grey} grey pixels`);
    const folder = at(`model-${decoders.map(({ name }) => name).join('-')}`);
    const nobody = { kind: 'stored' as const, ofAnotherDataset: false, names: [] };
    await exportModel(folder, config.encoder, decoders, trainedWeights(engine, runWeights(config, engine)), nobody); // prettier-ignore
    assert.equal(readdirSync(folder).sort(), ['config.json', 'held_out.json', 'model.safetensors', ...decoders.map(({ name }) => name)].sort()); // prettier-ignore
    assert.equal(JSON.parse(readFileSync(join(folder, 'number/config.json'), 'utf8')), { model_type: 'number' }); // prettier-ignore
    const weights = await floatsOf(join(folder, 'number/model.safetensors'));
    assert.equal([...weights.keys()], ['head.weight']);
    heldOut.dispose();
    engine.dispose();
  }
});

test.run();
