import type { NativeTensor } from '../bindings.js';
import type { IdentityDataset } from '../data/dataset.js';
import { BatchLoader, type Batch, type PhotoProblem } from './batch_loader.js';
import type { TrainingConfig } from './config.js';
import type { Decoder } from './decoders.js';
import type { TrainingEngine } from './engine.js';
import { FewToManySampler } from './few_to_many.js';
import { drawGrid, type GridBlock, type GridPicture, type Picture } from './grid.js';
import { heldOutPrefetch, heldOutShape } from './memory.js';
import { photoSize, samplingOf } from './run_parts.js';
import { StepTensors } from './step_data.js';
import type { StepShape } from './step_graph.js';

/** People that are drawn. */
const drawnPeople = 4;
const lossKind = { gradients: 'none', update: false, show: false } as const;

/**
 * The loss on people that are not trained on, and pictures of how they are rebuilt: each of them once, with the same photos and patches every
 * time.
 */
export class HeldOut {
  readonly #sampler: FewToManySampler;
  readonly #tensors: StepTensors;
  /** Of what runs at once. */
  readonly #shape: StepShape;
  readonly #steps: number;
  readonly #size: number;
  /** The one whose pictures are drawn. */
  readonly #decoder: Decoder;

  constructor(
    private readonly config: TrainingConfig,
    private readonly engine: TrainingEngine,
    private readonly dataset: IdentityDataset,
    private readonly onProblem: (problem: PhotoProblem) => void,
  ) {
    this.#shape = heldOutShape(config, dataset.identities);
    const { identities } = this.#shape;
    this.#steps = dataset.identities / identities;
    this.#size = photoSize(config);
    const inputs = config.sampling.inputs[1];
    const { targets } = config.sampling;
    this.#sampler = new FewToManySampler(dataset, {
      ...samplingOf(config),
      identitiesPerStep: identities,
      inputs,
      flipProbability: 0,
      targetsMayIncludeInputs: false,
    });
    const [decoder] = engine.model.decoders;
    if (!decoder) throw new Error('a run has a decoder');
    this.#decoder = decoder;
    this.#tensors = new StepTensors(engine.session, config.encoder, engine.model.decoders, {
      identities,
      inputs,
      targets,
    });
  }

  /**
   * Mean of the weighted losses over all held-out people.
   * @param onProgress told of people that are done, and of all
   */
  async loss(onProgress?: (done: number, total: number) => void): Promise<number> {
    let total = 0;
    let done = 0;
    await this.#each(this.#steps, async (batch) => {
      const [part] = await this.#tensors.fill(batch, this.#size, 1);
      if (!part) return;
      const { losses } = await this.engine.run(part.shape, lossKind, part.data);
      for (const { name, weight } of this.engine.model.decoders) total += weight * (losses[name] ?? NaN);
      done += this.#shape.identities;
      onProgress?.(done, this.dataset.identities);
    });
    return total / this.#steps;
  }

  /** Bytes of the memory that the loss's intermediate values need. */
  arenaBytes(): Promise<number> {
    return this.engine.arenaBytes(this.#shape, lossKind);
  }

  /** Inputs, what the first decoder saw and made of the targets, and the targets of the first people. */
  async draw(): Promise<GridPicture> {
    const blocks: GridBlock[] = [];
    const steps = Math.min(this.#steps, Math.ceil(drawnPeople / this.#shape.identities));
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
      ahead: heldOutPrefetch,
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
    const prediction = await this.#predict(batch);
    const { targets: each } = config.sampling;
    const { inputs } = batch.sample;
    const side = this.#size;
    const photo = (all: Uint8Array, index: number): Picture => ({
      data: all.subarray(index * side * side * 3, (index + 1) * side * side * 3),
      width: side,
      height: side,
    });
    return batch.sample.identities.map(({ identity }, i): GridBlock => {
      const ofInputs = Array.from({ length: inputs }, (_, j) => photo(batch.inputs, i * inputs + j));
      const ofTargets = Array.from({ length: each }, (_, j) => photo(batch.targets, i * each + j));
      const shown = new Map<string, Picture[]>();
      for (const [j, target] of ofTargets.entries()) {
        const { imageProcessor } = config.encoder;
        for (const { label, picture } of this.#decoder.pictures(
          batch,
          i * each + j,
          target,
          prediction,
          imageProcessor,
        )) {
          const row = shown.get(label);
          if (row) row.push(picture);
          else shown.set(label, [picture]);
        }
      }
      return {
        title: this.dataset.identityName(identity),
        rows: [
          { label: 'inputs', pictures: ofInputs },
          ...[...shown].map(([label, pictures]) => ({ label, pictures })),
          { label: 'targets', pictures: ofTargets },
        ],
      };
    });
  }

  /** What the first decoder makes of a batch's targets. */
  async #predict(batch: Batch): Promise<Float32Array> {
    const { engine, config } = this;
    const [part] = await this.#tensors.fill(batch, this.#size, 1);
    if (!part) throw new Error('a batch has a part');
    const sizeOf = (decoder: Decoder): number => decoder.predictionSize(part.shape.targets);
    const tensors = new Map<string, NativeTensor>();
    try {
      const { tokens, width } = config.encoder;
      const add = (name: string, count: number): void => {
        tensors.set(name, engine.session.tensor({ dtype: 'f32', shape: [count] }));
      };
      add('tokens', this.#shape.identities * tokens * width);
      for (const decoder of engine.model.decoders)
        if (sizeOf(decoder) > 0) add(`prediction ${decoder.name}`, sizeOf(decoder));
      const shown = Object.fromEntries([...tensors].map(([name, tensor]) => [name, { tensor, element: 0 }]));
      const kind = { gradients: 'none', update: false, show: true } as const;
      await engine.run(part.shape, kind, part.data, { shown });
      const shownOf = tensors.get(`prediction ${this.#decoder.name}`);
      return (shownOf?.read(0, sizeOf(this.#decoder)) ?? new Float32Array()) as Float32Array;
    } finally {
      for (const tensor of tensors.values()) tensor.dispose();
    }
  }
}
