import type { NativeTensor } from '../bindings.js';
import type { IdentityDataset } from '../data/dataset.js';
import { pictureOf } from '../models/patches.js';
import { BatchLoader, type Batch, type PhotoProblem } from './batch_loader.js';
import type { TrainingConfig } from './config.js';
import type { MaskedDecoder } from './decoders.js';
import type { TrainingEngine } from './engine.js';
import { FewToManySampler } from './few_to_many.js';
import { drawGrid, maskedPicture, type GridBlock, type GridPicture, type Picture } from './grid.js';
import { StepTensors } from './step_data.js';
import { photoSize, samplingOf } from './run_parts.js';

/** People that are drawn. */
const drawnPeople = 4;

/** The largest number of identities, at most this many, that the people can be split into without a rest. */
function identitiesAtOnce(people: number, most: number): number {
  let count = Math.min(people, most);
  while (people % count !== 0) count--;
  return count;
}

/**
 * The loss on people that are not trained on, and pictures of how they are rebuilt: each of them once, with the same photos and patches every
 * time.
 */
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
    private readonly onProblem: (problem: PhotoProblem) => void,
  ) {
    this.#identities = identitiesAtOnce(dataset.identities, config.sampling.identities);
    this.#steps = dataset.identities / this.#identities;
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
    const steps = Math.min(this.#steps, Math.ceil(drawnPeople / this.#identities));
    await this.#each(steps, async (batch) => {
      blocks.push(...(await this.#blocks(batch)));
    });
    return drawGrid(blocks.slice(0, drawnPeople));
  }

  dispose(): void {
    this.#tensors.dispose();
  }

  async #each(steps: number, body: (batch: Batch) => Promise<void>): Promise<void> {
    const loader = new BatchLoader(this.dataset, this.#sampler, {
      size: this.#size,
      firstStep: 0,
      endStep: steps,
      onProblem: this.onProblem,
      reportAtMost: Infinity,
    });
    try {
      for (let step = 0; step < steps; step++) await body((await loader.next()).batch);
    } finally {
      await loader.stop();
    }
  }

  async #blocks(batch: Batch): Promise<GridBlock[]> {
    const { config } = this;
    const { imageSize, patchSize } = this.#decoder.config;
    const prediction = await this.#predict(batch);
    const { targets: each } = config.sampling;
    const { inputs } = batch.sample;
    const side = this.#size;
    const photo = (all: Uint8Array, index: number): Picture => ({
      data: all.subarray(index * side * side * 3, (index + 1) * side * side * 3),
      width: side,
      height: side,
    });
    const visible = (target: number): Picture => {
      const { visible: count } = this.#decoder;
      const indices = batch.visible.subarray(target * count, (target + 1) * count);
      return maskedPicture(photo(batch.targets, target), indices, (patchSize * side) / imageSize);
    };
    const rebuilt = (target: number): Picture => {
      const values = 3 * imageSize * imageSize;
      const patches = prediction.subarray(target * values, (target + 1) * values);
      return {
        data: pictureOf(patches, { imageSize, patchSize }),
        width: imageSize,
        height: imageSize,
        normalisation: config.encoder.imageProcessor,
      };
    };
    return batch.sample.identities.map(({ identity }, i): GridBlock => {
      const ofInputs = Array.from({ length: inputs }, (_, j) => i * inputs + j);
      const ofTargets = Array.from({ length: each }, (_, j) => i * each + j);
      return {
        title: this.dataset.identityName(identity),
        rows: [
          { label: 'inputs', pictures: ofInputs.map((index) => photo(batch.inputs, index)) },
          { label: 'visible', pictures: ofTargets.map(visible) },
          { label: 'rebuilt', pictures: ofTargets.map(rebuilt) },
          { label: 'targets', pictures: ofTargets.map((index) => photo(batch.targets, index)) },
        ],
      };
    });
  }

  /** What the first decoder makes of a batch's targets: f32 [targets · patches, patch² · 3]. */
  async #predict(batch: Batch): Promise<Float32Array> {
    const { engine, config } = this;
    const [part] = await this.#tensors.fill(batch, this.#size, 1);
    if (!part) throw new Error('a batch has a part');
    const valuesOf = ({ config: { imageSize } }: MaskedDecoder): number =>
      part.shape.targets * 3 * imageSize * imageSize;
    const tensors = new Map<string, NativeTensor>();
    try {
      const { tokens, width } = config.encoder;
      const add = (name: string, count: number): void => {
        tensors.set(name, engine.session.tensor({ dtype: 'f32', shape: [count] }));
      };
      add('tokens', this.#identities * tokens * width);
      for (const decoder of engine.model.decoders as readonly MaskedDecoder[])
        add(`prediction ${decoder.name}`, valuesOf(decoder));
      const shown = Object.fromEntries([...tensors].map(([name, tensor]) => [name, { tensor, element: 0 }]));
      const kind = { gradients: 'none', update: false, show: true } as const;
      await engine.run(part.shape, kind, part.data, { shown });
      const values = tensors.get(`prediction ${this.#decoder.name}`)?.read(0, valuesOf(this.#decoder));
      if (!(values instanceof Float32Array)) throw new Error('a prediction is f32');
      return values;
    } finally {
      for (const tensor of tensors.values()) tensor.dispose();
    }
  }
}
