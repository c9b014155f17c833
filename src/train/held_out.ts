import type { NativeTensor } from '../bindings.js';
import type { IdentityDataset } from '../data/dataset.js';
import { BatchLoader, type Batch } from './batch_loader.js';
import type { TrainingConfig } from './config.js';
import type { MaskedDecoder } from './decoders.js';
import type { TrainingEngine } from './engine.js';
import { FewToManySampler } from './few_to_many.js';
import { drawGrid, maskedPicture, type GridBlock, type GridPicture, type Picture } from './grid.js';
import { StepTensors } from './step_data.js';
import { photoSize, samplingOf } from './run_parts.js';

/** People that are drawn. */
const people = 4;

/** The loss on people that are not trained on, and pictures of how they are rebuilt: the same photos and patches every time. */
export class HeldOut {
  readonly #sampler: FewToManySampler;
  readonly #tensors: StepTensors;
  readonly #identities: number;
  readonly #steps: number;
  readonly #size: number;
  readonly #decoder: MaskedDecoder;

  constructor(
    private readonly config: TrainingConfig,
    private readonly engine: TrainingEngine,
    private readonly dataset: IdentityDataset,
  ) {
    this.#identities = Math.min(config.sampling.identities, dataset.identities);
    this.#steps = Math.floor(dataset.identities / this.#identities);
    this.#size = photoSize(config);
    const inputs = config.sampling.inputs[1];
    const { targets } = config.sampling;
    this.#sampler = new FewToManySampler(dataset, {
      ...samplingOf(config),
      identitiesPerStep: this.#identities,
      inputs,
      flipProbability: 0,
      targetsMayIncludeInputs: false,
    });
    const [decoder] = engine.model.decoders as readonly MaskedDecoder[];
    if (!decoder) throw new Error('a run has a decoder');
    this.#decoder = decoder;
    this.#tensors = new StepTensors(engine.session, config.encoder, engine.model.decoders, {
      identities: this.#identities,
      inputs,
      targets,
    });
  }

  /** Mean of the weighted losses over all held-out people. */
  async loss(): Promise<number> {
    let total = 0;
    await this.#each(this.#steps, async (batch) => {
      const [part] = await this.#tensors.fill(batch, this.#size, 1);
      if (!part) return;
      const kind = { gradients: 'none', update: false, show: false } as const;
      const { losses } = await this.engine.run(part.shape, kind, part.data);
      for (const { name, weight } of this.engine.model.decoders) total += weight * (losses[name] ?? NaN);
    });
    return total / this.#steps;
  }

  /** Inputs, masked targets, reconstructions and targets of the first people. */
  async draw(): Promise<GridPicture> {
    const blocks: GridBlock[] = [];
    await this.#each(Math.ceil(people / this.#identities), async (batch) => {
      blocks.push(...(await this.#blocks(batch)));
    });
    return drawGrid(blocks.slice(0, people));
  }

  dispose(): void {
    this.#tensors.dispose();
  }

  async #each(steps: number, body: (batch: Batch) => Promise<void>): Promise<void> {
    const loader = new BatchLoader(this.dataset, this.#sampler, {
      size: this.#size,
      firstStep: 0,
      endStep: steps,
    });
    try {
      for (let step = 0; step < steps; step++) await body((await loader.next()).batch);
    } finally {
      await loader.stop();
    }
  }

  async #blocks(batch: Batch): Promise<GridBlock[]> {
    const { engine, config } = this;
    const { imageSize, patchSize } = this.#decoder.config;
    const [part] = await this.#tensors.fill(batch, this.#size, 1);
    if (!part) return [];
    const { targets } = part.shape;
    const { tokens, width } = config.encoder;
    const shown: Record<string, NativeTensor> = {
      tokens: engine.session.tensor({ dtype: 'f32', shape: [this.#identities * tokens * width] }),
    };
    for (const decoder of engine.model.decoders as readonly MaskedDecoder[]) {
      const side = decoder.config.imageSize;
      shown[`prediction ${decoder.name}`] = engine.session.tensor({
        dtype: 'f32',
        shape: [targets * 3 * side * side],
      });
    }
    try {
      const places = Object.fromEntries(
        Object.entries(shown).map(([name, tensor]) => [name, { tensor, element: 0 }]),
      );
      const kind = { gradients: 'none', update: false, show: true } as const;
      await engine.run(part.shape, kind, part.data, { shown: places });
      const values = shown[`prediction ${this.#decoder.name}`]?.read(0, targets * 3 * imageSize * imageSize);
      const each = config.sampling.targets;
      const inputs = batch.sample.inputs;
      const side = this.#size;
      const photo = (all: Uint8Array, index: number): Picture => ({
        data: all.subarray(index * side * side * 3, (index + 1) * side * side * 3),
        width: side,
        height: side,
      });
      const { mean, std } = config.encoder.imageProcessor;
      return batch.sample.identities.map(({ identity }, i): GridBlock => {
        const indices = Array.from({ length: each }, (_ignored, j) => i * each + j);
        const seen = (index: number): Int32Array =>
          batch.visible.subarray(index * this.#decoder.visible, (index + 1) * this.#decoder.visible);
        return {
          title: this.dataset.identityName(identity),
          rows: [
            {
              label: 'inputs',
              pictures: Array.from({ length: inputs }, (_ignored, j) => photo(batch.inputs, i * inputs + j)),
            },
            {
              label: 'visible',
              pictures: indices.map((index) =>
                maskedPicture(photo(batch.targets, index), seen(index), (patchSize * side) / imageSize),
              ),
            },
            {
              label: 'rebuilt',
              pictures: indices.map((index) => ({
                data: unpatched(values as Float32Array, index, imageSize, patchSize),
                width: imageSize,
                height: imageSize,
                normalisation: { mean, std },
              })),
            },
            { label: 'targets', pictures: indices.map((index) => photo(batch.targets, index)) },
          ],
        };
      });
    } finally {
      for (const tensor of Object.values(shown)) tensor.dispose();
    }
  }
}

/** The patches of one prediction, [y][x][channel] each, as an image [3, size, size]. */
export function unpatched(
  prediction: Float32Array,
  image: number,
  size: number,
  patch: number,
): Float32Array {
  const across = Math.floor(size / patch);
  const depth = 3 * patch * patch;
  const out = new Float32Array(3 * size * size);
  for (let p = 0; p < across * across; p++) {
    const top = Math.floor(p / across) * patch;
    const left = (p % across) * patch;
    let from = (image * across * across + p) * depth;
    for (let y = 0; y < patch; y++) {
      for (let x = 0; x < patch; x++) {
        for (let c = 0; c < 3; c++) {
          out[(c * size + top + y) * size + left + x] = prediction[from++] ?? 0;
        }
      }
    }
  }
  return out;
}
