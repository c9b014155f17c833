import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { findModule, importFrom, peersFolder, type Vega, type VegaLite } from './peers/modules.js';
import type { Results, Row } from './results.js';
import { UsageError } from './usage_error.js';

/** A Vega-Lite specification. */
type Spec = Record<string, unknown>;

const colours = { domain: ['f32', 'bf16'], range: ['#4c78a8', '#e45756'] };
const subtitle = ({ processor, instructionSet, threads, date, commit }: Results): string =>
  `${processor}, ${instructionSet}, ${threads} threads; commit ${commit}, ${date.slice(0, 10)}`;

const good = (rows: readonly Row[], suite: string): Row[] =>
  rows.filter((row) => row.suite === suite && row.status === 'ok' && row.median !== null);

/** images/s of everybody, one group of bars for each thing that was measured, the fastest on top. */
function peerBars(results: Results, suite: string, title: string): Spec | undefined {
  const rows = good(results.rows, suite);
  if (rows.length === 0) return undefined;
  const who = { field: 'who', type: 'nominal', title: null, sort: null };
  const images = { field: 'images', type: 'quantitative', title: 'images/s' };
  const group = (name: string): Spec => ({
    title: { text: name, fontSize: 11 },
    data: {
      values: rows
        .filter((row) => row.name === name)
        .sort((a, b) => (b.imagesPerSecond ?? 0) - (a.imagesPerSecond ?? 0))
        .map(({ contestant, dtype = '', imagesPerSecond }) => ({
          who: `${contestant} ${dtype}`,
          dtype,
          images: imagesPerSecond,
        })),
    },
    width: 480,
    height: { step: 18 },
    encoding: { y: who, x: images },
    layer: [
      {
        mark: 'bar',
        encoding: { color: { field: 'dtype', type: 'nominal', title: 'type', scale: colours } },
      },
      { mark: { type: 'text', align: 'left', dx: 4 }, encoding: { text: { ...images, format: '.3~s' } } },
    ],
  });
  return {
    title: { text: title, subtitle: subtitle(results), anchor: 'start' },
    vconcat: [...new Set(rows.map(({ name }) => name))].map(group),
  };
}

/** Kernels under the roofs that arithmetic and memory put over them (Williams, Waterman and Patterson 2009), log-log. */
function roofline(results: Results): Spec | undefined {
  const points = good(results.rows, 'kernel')
    .filter(({ contestant, gflops, flops, bytes }) => contestant === 'omni-id' && (gflops ?? 0) > 0 && flops !== undefined && bytes !== undefined)
    .map(({ name, dtype, gflops, flops = 0, bytes = 1 }) => ({ op: name.split(' ')[0], name, dtype, intensity: flops / bytes, gflops })); // prettier-ignore
  if (points.length === 0) return undefined;
  const { peak } = results;
  const roofs = (['f32', 'bf16'] as const)
    .filter((dtype) => peak[dtype] > 0)
    .flatMap((dtype) =>
      [0.1, peak[dtype] / peak.memoryRead, 2000].map((intensity) => ({
        dtype,
        intensity,
        gflops: Math.min(peak[dtype], intensity * peak.memoryRead) / 1e9,
      })),
    );
  const x = {
    field: 'intensity',
    type: 'quantitative',
    scale: { type: 'log', domain: [0.1, 2000] },
    title: 'flop per byte of inputs, weights and outputs',
  };
  const y = { field: 'gflops', type: 'quantitative', scale: { type: 'log' }, title: 'GFLOP/s' };
  return {
    title: { text: 'Kernels under the roofline', subtitle: subtitle(results), anchor: 'start' },
    width: 560,
    height: 360,
    layer: [
      {
        data: { values: roofs },
        mark: { type: 'line', strokeWidth: 1.5 },
        encoding: { x, y, color: { field: 'dtype', type: 'nominal', title: 'type', scale: colours } },
      },
      {
        data: { values: points },
        mark: { type: 'point', filled: true, opacity: 0.8, size: 50 },
        encoding: { x, y, color: { field: 'dtype', type: 'nominal', scale: colours }, shape: { field: 'op', type: 'nominal', title: 'operator' } },
      },
    ],
  }; // prettier-ignore
}

/** images/s along a curve of the scaling suite. */
function scaling(results: Results, over: 'batch' | 'threads'): Spec | undefined {
  const values = good(results.rows, 'scaling')
    .filter(({ name }) => name.includes(`over ${over}`))
    .map(({ at, dtype, imagesPerSecond }) => ({ at, dtype, images: imagesPerSecond }));
  if (values.length === 0) return undefined;
  const ticks = [...new Set(values.map(({ at }) => at))];
  return {
    title: {
      text: `images/s over ${over === 'batch' ? 'photos in a batch' : 'threads'}`,
      subtitle: subtitle(results),
      anchor: 'start',
    },
    width: 420,
    height: 260,
    data: { values },
    mark: { type: 'line', point: true },
    encoding: {
      x: {
        field: 'at',
        type: 'quantitative',
        scale: { type: 'log', base: 2 },
        axis: { values: ticks },
        title: over,
      },
      y: { field: 'images', type: 'quantitative', scale: { zero: true }, title: 'images/s' },
      color: { field: 'dtype', type: 'nominal', title: null, scale: colours },
    },
  };
}

/** All figures that the results have rows for, by name. */
function figures(results: Results): Map<string, Spec> {
  const all = {
    model: peerBars(results, 'model', 'Whole models: images/s, ours beside the peers'),
    block: peerBars(results, 'block', 'One layer of the CLIP tower: images/s, ours beside the peers'),
    roofline: roofline(results),
    'scaling-batch': scaling(results, 'batch'),
    'scaling-threads': scaling(results, 'threads'),
  };
  return new Map(Object.entries(all).flatMap(([name, spec]) => (spec ? [[name, spec]] : [])));
}

/** Several runs as one: the machine of the first, the rows of all. @throws {UsageError} when they are of different machines */
export function joined(all: readonly Results[]): Results {
  const [first, ...rest] = all;
  if (!first) throw new UsageError('no results to draw');
  for (const other of rest) {
    if (other.processor !== first.processor || other.instructionSet !== first.instructionSet)
      throw new UsageError(`results of different machines: ${first.processor} and ${other.processor}`);
  }
  return { ...first, rows: all.flatMap(({ rows }) => rows), ratios: all.flatMap(({ ratios }) => ratios) };
}

/**
 * Draws the figures of a run as SVG with Vega-Lite, which is installed with the peers.
 * @returns the files that were written
 * @throws {UsageError} when the library is not installed, or the results have nothing to draw
 */
export async function drawCharts(results: Results, folder: string): Promise<string[]> {
  const found = findModule('vega-lite');
  if (!found || !findModule('vega')) {
    throw new UsageError(
      `drawing needs vega and vega-lite: npm ci --ignore-scripts --prefix ${peersFolder}, or npm install in your project`,
    );
  }
  const vega = (await importFrom(found.folder, 'vega')) as unknown as Vega;
  const vegaLite = (await importFrom(found.folder, 'vega-lite')) as unknown as VegaLite;
  const specs = figures(results);
  if (specs.size === 0)
    throw new UsageError(
      'the results have no rows of the suites kernel, block, model or scaling: nothing to draw',
    );
  mkdirSync(folder, { recursive: true });
  const paths: string[] = [];
  for (const [name, spec] of specs) {
    const config = { background: 'white', font: 'sans-serif', view: { stroke: null } };
    const compiled = vegaLite.compile({
      $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
      config,
      ...spec,
    }).spec;
    const svg = await new vega.View(vega.parse(compiled), { renderer: 'none' }).toSVG();
    const path = join(folder, `${name}.svg`);
    writeFileSync(path, `${svg}\n`);
    paths.push(path);
  }
  return paths;
}
