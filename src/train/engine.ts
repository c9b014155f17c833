import type { NativeTensor } from '../bindings.js';
import { NumericError } from '../errors.js';
import type { Graph, WeightUse } from '../graph/graph.js';
import { translated, type Place, type Session } from '../graph/session.js';
import { ParameterLayout, TrainingState, type Slot } from './parameters.js';
import {
  stepGraph,
  type OptimizerConfig,
  type StepKind,
  type StepModel,
  type StepShape,
} from './step_graph.js';

/** How a parameter is trained. */
export interface ParameterRate {
  /** Its learning rate, as a share of the run's. */
  readonly rate: number;
  /** Decoupled weight decay. */
  readonly decay: number;
  /** It stays as it is, and its gradient does not count in the norm: it is read together with others that are trained. */
  readonly frozen?: boolean;
}

export interface EngineOptions {
  readonly betas: readonly [number, number];
  readonly epsilon: number;
  /** Whether a moving average of the values is kept. */
  readonly average: boolean;
  /** Largest norm of the gradients of all that is trained together; 0 does not clip. */
  readonly clipGradNorm: number;
  rateOf(slot: Slot): ParameterRate;
}

/** Numbers of one step of the optimizer. */
export interface UpdateSettings {
  /** The step, from 1 on: for the bias corrections of the moments. */
  readonly step: number;
  readonly learningRate: number;
  /** Decay of the moving average. */
  readonly averageDecay: number;
}

/** What a step is given, or gives, by the names of its graph's inputs or outputs. */
export type StepData = Readonly<Record<string, Place>>;

export interface StepResult {
  /** By decoder, not weighted. */
  readonly losses: Readonly<Record<string, number>>;
  /** Norm of the gradients of all that is trained, before clipping, of a step that updates. Not finite, as when a loss is not: nothing was changed. */
  readonly norm: number;
}

/** The parameters of a model and the plans of its steps on one device. */
export class TrainingEngine {
  readonly layout: ParameterLayout;
  readonly state: TrainingState;
  readonly #frozen: ReadonlyMap<string, WeightUse>;
  readonly #optimizer: OptimizerConfig;
  readonly #constants: Record<string, NativeTensor> = {};
  readonly #settings: NativeTensor;
  readonly #norm: NativeTensor;
  readonly #losses = new Map<string, NativeTensor>();
  readonly #graphs = new Map<string, Graph>();

  constructor(
    readonly session: Session,
    readonly model: StepModel,
    private readonly options: EngineOptions,
  ) {
    const shape = { identities: 1, photos: 1, targets: 1 };
    const graph = translated(() =>
      stepGraph(model, shape, { gradients: 'none', update: false, show: false }),
    );
    this.layout = new ParameterLayout(graph.parameters);
    this.#frozen = graph.weights;
    const { slots, size } = this.layout;
    this.state = new TrainingState(session, this.layout, options);
    // A gap belongs to the segment before it: nothing is there, and nothing changes it.
    const rates = slots.map((slot) => options.rateOf(slot));
    this.#optimizer = { ...options, size, segments: slots.length };
    const constant = (name: string, values: Float32Array | Int32Array): void => {
      const dtype = values instanceof Int32Array ? 'i32' : 'f32';
      const tensor = session.tensor({ dtype, shape: [values.length] });
      tensor.write(values, 0);
      this.#constants[name] = tensor;
    };
    constant('optimizer segments', Int32Array.from([...slots.map(({ offset }) => offset), size]));
    const ofSegments = (name: string, value: (rate: ParameterRate) => number): void => {
      constant(`optimizer ${name}`, Float32Array.from(rates, value));
    };
    ofSegments('counted', ({ frozen }) => (frozen ? 0 : 1));
    ofSegments('rates', ({ rate, frozen }) => (frozen ? 0 : rate));
    ofSegments('decays', ({ decay, frozen }) => (frozen ? 0 : decay));
    constant('far below zero', Float32Array.of(-1e6));
    for (const { name, weight } of model.decoders) {
      constant(`seed ${name}`, Float32Array.of(weight));
      this.#losses.set(name, session.tensor({ dtype: 'f32', shape: [1] }));
    }
    this.#settings = session.tensor({ dtype: 'f32', shape: [5] });
    this.#norm = session.tensor({ dtype: 'f32', shape: [1] });
  }

  /** Weights that are read and not trained. */
  get frozen(): ReadonlyMap<string, WeightUse> {
    return this.#frozen;
  }

  /** Lets the moving average begin at the values. */
  startAverage(): void {
    if (!this.state.average) return;
    for (const slot of this.layout.slots) this.state.write('average', slot, this.state.read('values', slot));
  }

  /** Bytes of the memory that a step's intermediate values need. */
  async arenaBytes(shape: StepShape, kind: StepKind): Promise<number> {
    return (await this.#plan(shape, kind)).plan.arenaBytes;
  }

  /**
   * Runs one step.
   * @param data every input of the graph that is not a parameter
   * @param shown where the outputs of a step that shows go, by name: `tokens`, `prediction NAME`
   * @param settings of a step that updates
   */
  async run(
    shape: StepShape,
    kind: StepKind,
    data: StepData,
    options: { settings?: UpdateSettings; shown?: StepData; signal?: AbortSignal } = {},
  ): Promise<StepResult> {
    const { plan, graph } = await this.#plan(shape, kind);
    const { values, gradients } = this.state;
    const places: Record<string, Place> = {};
    const add = (name: string, tensor: NativeTensor, element = 0): void => {
      places[name] = { tensor, element };
    };
    Object.assign(places, data, options.shown);
    for (const { names } of graph.parameters) {
      const joined = names.join('+');
      const element = this.layout.place(names);
      add(`parameter ${joined}`, values, element);
      if (kind.gradients !== 'none') add(`gradient ${joined}`, gradients, element);
      if (kind.gradients === 'more') add(`gradient so far ${joined}`, gradients, element);
    }
    for (const [name, tensor] of this.#losses) add(`loss ${name}`, tensor);
    for (const [name, tensor] of Object.entries(this.#constants)) {
      if (graph.inputs.has(name)) add(name, tensor);
    }
    if (kind.update) {
      const { settings } = options;
      if (!settings) throw new Error('a step that updates needs settings');
      const { betas, clipGradNorm } = this.options;
      // Numbers that f32 cannot hold are not written: the step would run with what lies in the memory.
      const bad = this.#settings.write(
        Float32Array.of(
          settings.learningRate,
          1 - betas[0] ** settings.step,
          1 - betas[1] ** settings.step,
          clipGradNorm,
          settings.averageDecay,
        ),
        0,
      );
      if (bad >= 0)
        throw new NumericError(`the optimizer's settings are beyond f32: ${JSON.stringify(settings)}`);
      add('optimizer settings', this.#settings);
      add('optimizer gradients', gradients);
      add('norm', this.#norm);
      for (const name of this.state.vectors) {
        const tensor = this.state[name];
        if (!tensor) continue;
        add(`optimizer ${name}`, tensor);
        add(`optimizer new ${name}`, tensor);
      }
    }
    await this.session.run(plan, places, options.signal);
    const losses: Record<string, number> = {};
    for (const [name, tensor] of this.#losses) losses[name] = tensor.read(0, 1)[0] ?? NaN;
    return { losses, norm: kind.update ? (this.#norm.read(0, 1)[0] ?? NaN) : NaN };
  }

  dispose(): void {
    this.state.dispose();
    for (const tensor of Object.values(this.#constants)) tensor.dispose();
    for (const tensor of this.#losses.values()) tensor.dispose();
    this.#settings.dispose();
    this.#norm.dispose();
    this.session.dispose();
  }

  async #plan(shape: StepShape, kind: StepKind) {
    const { identities, photos, targets } = shape;
    const key = JSON.stringify(['step', identities, photos, targets, kind.gradients, kind.update, kind.show]);
    let graph = this.#graphs.get(key);
    if (!graph) {
      graph = translated(() => stepGraph(this.model, shape, kind, this.#optimizer));
      this.#graphs.set(key, graph);
    }
    const built = graph;
    return { graph, plan: await this.session.plan(key, () => built) };
  }
}
