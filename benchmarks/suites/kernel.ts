import {
  native,
  type NativeDevice,
  type NativePlan,
  type NativeTensor,
  type NativeWeights,
  type StepProfile,
} from '../../src/bindings.js';
import { relativeError, worstCosine } from '../../test/support/assert_close.js';
import type { Context, Suite } from '../context.js';
import type { Size } from '../fixtures.js';
import { describeStep } from '../profile.js';
import { inputValues, kernelCases, setWeights, type KernelCase } from './kernel_cases.js';
import { productRace } from './kernel_products.js';

/** Two kernels of ours for different instruction sets agree to rounding: f32 sums of a few thousand terms, and outputs rounded to bf16. */
const bounds = { f32: 1e-4, bf16: 1e-2 } as const;

/** A case on one device, ready to run. */
class BoundKernel {
  readonly #tensors: Record<string, { tensor: NativeTensor; element: number }> = {};

  private constructor(
    private readonly plan: NativePlan,
    device: NativeDevice,
    private readonly one: KernelCase,
  ) {
    const values = inputValues(one);
    for (const [i, value] of one.graph.values.entries()) {
      if (value.kind !== 'input' && value.kind !== 'result') continue;
      const tensor = new (native().Tensor)(device, { dtype: value.dtype, shape: value.shape });
      const name = `v${i}`;
      const given = values.get(name);
      if (given) tensor.write(given, 0);
      this.#tensors[name] = { tensor, element: 0 };
    }
  }

  static async bind(device: NativeDevice, weights: NativeWeights, one: KernelCase): Promise<BoundKernel> {
    const plan = await native().compile(device, weights, one.graph, new (native().Cancellation)());
    return new BoundKernel(plan, device, one);
  }

  async run(): Promise<StepProfile> {
    const [step] = await this.plan.profile(this.#tensors, new (native().Cancellation)());
    if (!step) throw new Error('a plan without steps');
    return step;
  }

  output(index: number): Float32Array {
    const shape = this.one.graph.values[index]?.shape ?? [];
    const output = this.#tensors[`v${index}`];
    if (!output) throw new Error('unreachable');
    return output.tensor.read(
      0,
      shape.reduce((product, n) => product * n, 1),
    ) as Float32Array;
  }

  dispose(): void {
    for (const { tensor } of Object.values(this.#tensors)) tensor.dispose();
    this.plan.dispose();
  }
}

async function measure(context: Context, one: KernelCase): Promise<void> {
  const { threads, quick } = context.settings;
  const device = new (native().Device)('cpu', threads);
  const weights = new (native().Weights)();
  setWeights(one, weights);
  const kernel = await BoundKernel.bind(device, weights, one);
  const first = await kernel.run();
  const error = await differenceFrom(one, weights, kernel, threads);
  const peak = async (): Promise<number> => {
    const seconds = quick ? 0.005 : 0.03;
    const own = await device.measurePeak(one.dtype, seconds);
    return own > 0 ? own : device.measurePeak('f32', seconds);
  };
  const before = await peak();
  // For at least a tenth of a second, so that the processor is not still waking up.
  const atLeast = context.rounds(15);
  const until = performance.now() + (quick ? 0 : 100);
  const warm: number[] = [];
  while (warm.length < atLeast || (performance.now() < until && warm.length < 200))
    warm.push((await kernel.run()).seconds);
  const around = Math.max(before, await peak());
  const difference = error?.relative ?? 0;
  const good = difference <= bounds[one.dtype];
  context.add({
    suite: 'kernel',
    name: `${one.op} ${describeStep(first)}`,
    contestant: 'omni-id',
    dtype: one.dtype,
    status: good ? 'ok' : 'wrong',
    ...(good ? {} : { note: `other numbers than ${error?.against ?? ''}: relative error ${difference}` }),
    unit: 's',
    cold: [first.seconds],
    warm,
    flops: first.flops,
    bytes: first.bytes,
    peaks: warm.map(() => around),
    ...(error ? { error } : {}),
  });
  kernel.dispose();
  weights.dispose();
}

/** Against our plainest kernels, on the same inputs and weights, the worst output; undefined where they are the ones that run. */
async function differenceFrom(
  one: KernelCase,
  weights: NativeWeights,
  kernel: BoundKernel,
  threads: number,
): Promise<{ against: string; relative: number; cosine: number } | undefined> {
  const isa = native().instructionSets().at(-1);
  if (isa === undefined || isa === new (native().Device)('cpu', threads).describe().instructionSet)
    return undefined;
  const other = await BoundKernel.bind(new (native().Device)('cpu', threads, isa), weights, one);
  await other.run();
  const errors = one.outputs.map((index) => {
    const [actual, expected] = [kernel.output(index), other.output(index)];
    const width = one.graph.values[index]?.shape.at(-1) ?? 1;
    return { relative: relativeError(actual, expected), cosine: worstCosine(actual, expected, width) };
  });
  other.dispose();
  return {
    against: `omni-id on ${isa}`,
    relative: Math.max(...errors.map(({ relative }) => relative)),
    cosine: Math.min(...errors.map(({ cosine }) => cosine)),
  };
}

export const kernelSuite: Suite = {
  name: 'kernel',
  what: 'every row of the operator table, as the encoder and its training use it, and matrix products beside oneDNN and OpenBLAS',
  get names() {
    return [...native().operators(), 'product'];
  },
  run: async (context) => {
    const sizes: Size[] = context.settings.preset
      ? [context.settings.preset]
      : context.settings.quick
        ? ['tiny']
        : ['nano', 'h'];
    const covered = new Set<string>();
    for (const size of sizes) {
      for (const dtype of ['f32', 'bf16'] as const) {
        const cases = kernelCases(size, dtype);
        context.log(`kernel: ${size}, ${dtype}`);
        for (const one of cases) {
          covered.add(one.op);
          if (context.wants(one.op)) await measure(context, one);
        }
        if (context.wants('product')) await productRace(context, size, dtype, cases);
      }
    }
    // The table is the list: an operator that the encoder does not use needs a case of its own.
    for (const op of native().operators()) {
      if (covered.has(op)) continue;
      context.add({ suite: 'kernel', name: op, contestant: 'omni-id', status: 'failed', note: 'this row of the operator table has no case', unit: 's', cold: [], warm: [] }); // prettier-ignore
    }
  },
};
