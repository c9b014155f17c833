/**
 * `npm run bench`: images a second of CLIP ViT-H/14's vision tower, ours in f32 and bf16 beside onnxruntime-node in f32, with the same weights and the same
 * pixels, in turns. Outputs are compared before a time counts.
 *
 *   npm run bench -- [--images N] [--rounds N] [--threads N] [--json FILE] [--preset h|nano]
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { native } from '../src/bindings.js';
import { clipVisionConfigToJson } from '../src/io/config.js';
import { writeSafetensors } from '../src/io/safetensors_writer.js';
import { clipVisionWeights } from '../src/models/clip_vision.js';
import { presets, type PresetName } from '../src/models/presets.js';
import { relativeError, worstCosine } from '../test/support/assert_close.js';
import { proceduralWeight } from '../test/support/procedural.js';
import type { Sample, Setup } from './contestant.js';
import { exportClipVision } from './onnx_export.js';

const { values: options } = parseArgs({
  options: {
    images: { type: 'string', default: '4' },
    rounds: { type: 'string', default: '5' },
    threads: { type: 'string', default: String(native().availableParallelism()) },
    preset: { type: 'string', default: 'h' },
    json: { type: 'string' },
  },
});
const images = Number(options.images);
const rounds = Number(options.rounds);
const threads = Number(options.threads);
if (!Object.hasOwn(presets, options.preset))
  throw new Error(`unknown preset ${options.preset}: expected one of ${Object.keys(presets).join(', ')}`);
const config = presets[options.preset as PresetName].vision;

class Contestant {
  readonly samples: Sample[] = [];
  peakBytes = 0;
  loadSeconds = 0;
  readonly #child;
  readonly #lines;

  constructor(
    readonly name: string,
    readonly setup: Setup,
  ) {
    const arguments_ = ['--import', 'tsx', join(import.meta.dirname, 'contestant.ts'), JSON.stringify(setup)];
    this.#child = spawn(process.execPath, arguments_, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  async #next(): Promise<Record<string, number>> {
    const line: IteratorResult<string, undefined> = await this.#lines.next();
    if (line.done === true) throw new Error(`${this.name} ended early`);
    return JSON.parse(line.value) as Record<string, number>;
  }

  async ready(): Promise<void> {
    this.loadSeconds = (await this.#next())['loadSeconds'] ?? NaN;
  }

  async sample(): Promise<void> {
    this.#child.stdin.write('run\n');
    this.samples.push((await this.#next()) as unknown as Sample);
  }

  async end(): Promise<void> {
    this.#child.stdin.write('end\n');
    this.peakBytes = (await this.#next())['peakBytes'] ?? NaN;
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2
    ? (sorted[middle] ?? NaN)
    : ((sorted[middle - 1] ?? NaN) + (sorted[middle] ?? NaN)) / 2;
}

const folder = mkdtempSync(join(tmpdir(), 'omni-id-bench-'));
try {
  // The weights, once, as a Hugging Face folder; the ONNX model points into the same file.
  const tensors = [...clipVisionWeights(config).values()].map(({ name, shape }) => {
    let bytes: Uint8Array | undefined;
    const byteLength = 4 * shape.reduce((product, n) => product * n, 1);
    return {
      name,
      dtype: 'F32' as const,
      shape,
      byteLength,
      read: (first: number, count: number): Uint8Array => {
        bytes ??= new Uint8Array(proceduralWeight(name, shape).buffer);
        const piece = bytes.slice(first, first + count);
        if (first + count === byteLength) bytes = undefined;
        return piece;
      },
    };
  });
  await writeSafetensors(join(folder, 'model.safetensors'), tensors);
  writeFileSync(join(folder, 'config.json'), JSON.stringify(clipVisionConfigToJson(config)));
  await exportClipVision(join(folder, 'model.onnx'), join(folder, 'model.safetensors'), config, images);

  const setup = (peer: Setup['peer'], dtype: Setup['dtype']): Contestant =>
    new Contestant(`${peer} ${dtype}`, {
      peer, dtype, folder, images, threads, imageSize: config.imageSize, outputs: join(folder, `${peer}-${dtype}.f32`),
    }); // prettier-ignore
  const contestants: Contestant[] = [];
  for (const [peer, dtype] of [
    ['onnxruntime-node', 'f32'],
    ['omni-id', 'f32'],
    ['omni-id', 'bf16'],
  ] as const) {
    // prettier-ignore
    const contestant = setup(peer, dtype);
    // One after another: loading at once would share the processor and double the peak.
    await contestant.ready();
    contestants.push(contestant);
  }
  const outputs = (contestant: Contestant): Float32Array =>
    new Float32Array(
      readFileSync(contestant.setup.outputs).buffer.slice(0, statSync(contestant.setup.outputs).size),
    );
  const reference = contestants[0];
  if (!reference) throw new Error('unreachable');
  const expected = outputs(reference);
  for (let round = 0; round < rounds; round++)
    for (const contestant of contestants) await contestant.sample();
  for (const contestant of contestants) await contestant.end();

  const device = new (native().Device)(threads).describe();
  const rows = contestants.map((contestant) => {
    const seconds = median(contestant.samples.map((sample) => sample.seconds));
    const actual = outputs(contestant);
    return {
      name: contestant.name,
      imagesPerSecond: images / seconds,
      seconds: contestant.samples.map((sample) => sample.seconds),
      peakBytes: contestant.peakBytes,
      loadSeconds: contestant.loadSeconds,
      loopDelayP99Ms: median(contestant.samples.map((sample) => sample.loopDelayP99Ms)),
      relativeError: relativeError(actual, expected),
      worstCosine: worstCosine(actual, expected, config.hiddenSize),
    };
  });
  const slowest = rows[0]?.imagesPerSecond ?? NaN;
  console.log(
    `CLIP vision, preset ${options.preset}, ${images} images a batch, ${threads} threads, medians of ${rounds} rounds in turns\n` +
      `${native().processorName()}, ${device.instructionSet}, Node ${process.versions.node}, commit ` +
      execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim(),
  );
  console.log(
    '\n| | images/s | against onnxruntime-node | peak memory | event-loop delay p99 | worst cosine |\n|---|---|---|---|---|---|',
  );
  for (const row of rows) {
    console.log(
      `| ${row.name} | ${row.imagesPerSecond.toFixed(2)} | ${(row.imagesPerSecond / slowest).toFixed(2)}× | ` +
        `${(row.peakBytes / 1e9).toFixed(2)} GB | ${row.loopDelayP99Ms.toFixed(1)} ms | ${row.worstCosine.toFixed(6)} |`,
    );
  }
  for (const row of rows) {
    const dtype = row.name.endsWith('bf16') ? 'bf16' : 'f32';
    if (!(dtype === 'f32' ? row.relativeError <= 1e-3 : row.worstCosine >= 0.9999)) {
      console.error(
        `${row.name} gives other numbers than onnxruntime-node: relative error ${row.relativeError}, cosine ${row.worstCosine}`,
      );
      process.exitCode = 1;
    }
  }
  if (options.json !== undefined)
    writeFileSync(options.json, JSON.stringify({ options, device, rows }, null, 2));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
