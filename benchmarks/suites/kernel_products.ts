import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { promisify } from 'node:util';
import { messageOf } from '../../src/errors.js';
import { native } from '../../src/bindings.js';
import { Graph } from '../../src/graph/graph.js';
import { linear } from '../../src/graph/operators.js';
import { relativeError, worstCosine } from '../../test/support/assert_close.js';
import { procedural, proceduralWeight } from '../../test/support/procedural.js';
import { ContestantProcess } from '../contestants/process.js';
import type { Context } from '../context.js';
import type { Size } from '../fixtures.js';
import { peersFolder } from '../peers/modules.js';
import type { Peer } from '../peers/peers.js';
import type { KernelCase } from './kernel_cases.js';

/** y [m, n] = x [m, k] · Wᵀ + b: what libraries can do too, without what we fuse into it. */
interface Product {
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/** Different summation orders: f32 to 1e-4 of the largest value; bf16 inputs are rounded alike, sums are f32. */
const tolerance = { f32: 1e-4, bf16: 1e-3 } as const;

function productsOf(cases: readonly KernelCase[]): Product[] {
  const products = new Map<string, Product>();
  for (const { op, graph } of cases) {
    if (op !== 'linear') continue;
    const [x, weight] = (graph.nodes[0]?.inputs ?? []).map((input) => graph.values[input ?? -1]?.shape ?? []);
    const [m = 0, k = 0] = x ?? [];
    const [n = 0] = weight ?? [];
    products.set(`${m} ${n} ${k}`, { m, n, k });
  }
  return [...products.values()];
}

const flags = { onednn: ['-DPEER_ONEDNN', '-ldnnl'], openblas: ['-DPEER_OPENBLAS', '-lopenblas'] } as const;
const compiled = new Map<string, Promise<string>>();

/** The library's program, compiled once per run. */
function program(context: Context, name: keyof typeof flags): Promise<string> {
  let path = compiled.get(name);
  if (!path) {
    const out = join(context.folder, `kernel-peer-${name}`);
    const [define, library] = flags[name];
    const source = join(peersFolder, 'kernel_peer.cpp');
    path = promisify(execFile)(process.env['CXX'] ?? 'c++', [
      '-std=c++20',
      '-O2',
      define,
      source,
      '-o',
      out,
      library,
    ]).then(() => out);
    compiled.set(name, path);
  }
  return path;
}

/** Ours, as the libraries see it: time of the product alone, and its result. */
async function ourProduct(
  context: Context,
  dtype: 'f32' | 'bf16',
  { m, n, k }: Product,
  x: Float32Array,
  w: Float32Array,
  bias: Float32Array,
) {
  const device = new (native().Device)('cpu', context.settings.threads);
  const weights = new (native().Weights)();
  weights.set('w', [n, k], w);
  weights.set('b', [n], bias);
  const graph = new Graph();
  const input = graph.input('x', dtype, [m, k]);
  graph.output(
    'y',
    linear(input, graph.weight(['w'], dtype, [n, k]), { bias: graph.weight(['b'], 'f32', [n]) }),
  );
  const cancellation = new (native().Cancellation)();
  const plan = await native().compile(device, weights, graph.toNative(), cancellation);
  const [from, to] = [
    new (native().Tensor)(device, { dtype, shape: [m, k] }),
    new (native().Tensor)(device, { dtype: 'f32', shape: [m, n] }),
  ];
  from.write(x, 0);
  const run = async (): Promise<number> => {
    const tensors = { x: { tensor: from, element: 0 }, y: { tensor: to, element: 0 } };
    return (await plan.profile(tensors, cancellation))[0]?.seconds ?? NaN;
  };
  return {
    run,
    peak: async () => {
      const own = await device.measurePeak(dtype, context.settings.quick ? 0.005 : 0.03);
      return own > 0 ? own : device.measurePeak('f32', 0.03);
    },
    result: () => to.read(0, m * n) as Float32Array,
    dispose: () => {
      for (const one of [from, to, plan, weights]) one.dispose();
    },
  };
}

/** Matrix products of the encoder's shapes: ours and the libraries' in turns. */
export async function productRace(
  context: Context,
  size: Size,
  dtype: 'f32' | 'bf16',
  cases: readonly KernelCase[],
): Promise<void> {
  const peers = (['onednn', 'openblas'] as const).filter(
    (name) => context.peer(name) && !(name === 'openblas' && dtype === 'bf16'),
  );
  for (const product of productsOf(cases)) await race(context, size, dtype, product, peers);
}

async function race(
  context: Context,
  size: Size,
  dtype: 'f32' | 'bf16',
  product: Product,
  peers: readonly Peer['name'][],
): Promise<void> {
  const { m, n, k } = product;
  const [x, w, bias] = [
    procedural('x', m * k, 0, 1.7),
    proceduralWeight('w', [n, k]),
    procedural('b', n, 0, 0.1),
  ];
  const folder = join(context.folder, `product-${size}-${dtype}-${m}-${n}-${k}`);
  mkdirSync(folder);
  for (const [name, values] of Object.entries({ x, w, b: bias }))
    writeFileSync(join(folder, `${name}.f32`), new Uint8Array(values.buffer));
  const ours = await ourProduct(context, dtype, product, x, w, bias);
  const cold = await ours.run();
  const before = await ours.peak();
  const contestants = [];
  for (const name of peers) {
    const contestant = {
      name,
      process: undefined as ContestantProcess | undefined,
      cold: [] as number[],
      warm: [] as number[],
      failure: '',
    };
    contestants.push(contestant);
    try {
      const command = await program(context, name as keyof typeof flags);
      const arguments_ = [folder, dtype, m, n, k].map(String);
      const threads = String(context.settings.threads);
      const env = { OMP_NUM_THREADS: threads, OPENBLAS_NUM_THREADS: threads };
      contestant.process = new ContestantProcess(name, { command, arguments: arguments_, env });
      contestant.cold.push((await contestant.process.ready()).works['product']?.firstSeconds ?? NaN);
    } catch (error) {
      contestant.failure = messageOf(error);
    }
  }
  const warm: number[] = [];
  const settleMs = context.settings.quick ? 0 : 100;
  for (let round = 0; round < context.rounds(9); round++) {
    // The libraries' threads spin for a while after their work (OpenBLAS's for tens of milliseconds): not during anybody else's. A turn begins with
    // a run that does not count, which wakes threads and fills caches.
    await setTimeout(settleMs);
    await ours.run();
    warm.push(await ours.run());
    for (const contestant of contestants) {
      if (contestant.failure !== '' || !contestant.process) continue;
      try {
        await setTimeout(settleMs);
        await contestant.process.sample('product');
        contestant.warm.push((await contestant.process.sample('product')).seconds);
      } catch (error) {
        contestant.failure = messageOf(error);
      }
    }
  }
  const around = Math.max(before, await ours.peak());
  const actual = ours.result();
  const flops = 2 * m * n * k;
  const width = dtype === 'f32' ? 4 : 2;
  const common = { suite: 'kernel', name: `product ${m}×${n}×${k}`, dtype, unit: 's', flops, bytes: width * (m * k + n * k) + 4 * m * n } as const; // prettier-ignore
  context.add({
    ...common,
    contestant: 'omni-id',
    status: 'ok',
    cold: [cold],
    warm,
    peaks: warm.map(() => around),
  });
  for (const { name, process, failure, cold: first, warm: samples } of contestants) {
    if (failure !== '') {
      process?.kill();
      context.add({ ...common, contestant: name, status: 'failed', note: failure, cold: [], warm: [] });
      continue;
    }
    await process?.end();
    const bytes = readFileSync(join(folder, 'product.f32'));
    const expected = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
    const error = {
      against: 'omni-id',
      relative: relativeError(expected, actual),
      cosine: worstCosine(expected, actual, n),
    };
    const good = error.relative <= tolerance[dtype];
    context.add({
      ...common,
      contestant: name,
      status: good ? 'ok' : 'wrong',
      ...(good ? {} : { note: `other numbers than ours: relative error ${error.relative}` }),
      cold: first,
      warm: samples,
      peaks: samples.map(() => around),
      error,
    });
  }
  ours.dispose();
}
