import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { writeFileSync } from 'node:fs';
import type { Context } from '../context.js';
import { configOf, modelFolder, pixelsOf } from '../fixtures.js';
import { packageEntry } from '../paths.js';
import { median } from '../statistics.js';

/** A process that does what a user's program would, and nothing else, and reports it as one line of JSON. */
async function userProgram(
  context: Context,
  photos: number,
  rounds: number,
): Promise<{ seconds: number; peakBytes: number; built: boolean }> {
  const size = context.size('h');
  const folder = await modelFolder(size, context.log);
  const { imageSize } = configOf(size).vision;
  const pixels = join(context.folder, `pixels-${size}-${photos}.f32`);
  const all = new Float32Array(photos * 3 * imageSize ** 2);
  for (let i = 0; i < photos; i++) all.set(pixelsOf(i, imageSize), (i * all.length) / photos);
  writeFileSync(pixels, new Uint8Array(all.buffer));
  const entry = packageEntry();
  const script = `
    import { readFileSync } from 'node:fs';
    import { OmniIdEncoder } from ${JSON.stringify(entry.module)};
    const bytes = readFileSync(${JSON.stringify(pixels)});
    const photos = Array.from({ length: ${photos} }, (_, i) => new Float32Array(bytes.buffer, bytes.byteOffset + i * ${all.byteLength / photos}, ${all.length / photos}));
    const encoder = await OmniIdEncoder.load(${JSON.stringify(folder)}, { threads: ${context.settings.threads}, packedCache: 'write' });
    for (let i = 0; i < ${rounds}; i++) await encoder.embed([photos]);
    const done = Date.now();
    const peak = /^VmHWM:\\s+(\\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'));
    console.log(JSON.stringify({ done, peakBytes: 1024 * Number(peak?.[1]) }));`;
  const begin = Date.now();
  const { stdout } = await promisify(execFile)(process.execPath, [
    ...entry.arguments,
    '--input-type=module',
    '-e',
    script,
  ]);
  const { done, peakBytes } = JSON.parse(stdout) as { done: number; peakBytes: number };
  return { seconds: (done - begin) / 1000, peakBytes, built: entry.built };
}

/** From the start of the process to the first tokens of one photo, with a packed cache that the system has in memory. */
export async function startRatio(context: Context): Promise<void> {
  const first = await userProgram(context, 1, 1);
  const samples: number[] = [];
  for (let round = 0; round < context.rounds(7); round++)
    samples.push((await userProgram(context, 1, 1)).seconds);
  const note =
    `encoder "${context.size('h')}", bf16: process start to the tokens of one photo, packed cache in memory` +
    (first.built ? '' : '; the package is not built: run as source through tsx, which adds its start');
  context.ratio({ name: 'start.seconds', value: median(samples), samples, better: 'lower', note });
  context.add({ suite: 'encoder', name: 'start', contestant: 'omni-id', dtype: 'bf16', status: 'ok', note, unit: 's', cold: [first.seconds], warm: samples, images: 1 }); // prettier-ignore
}

/** Most memory that a process has resident which embeds batches of four photos; the mapped weights count. */
export async function memoryRatio(context: Context): Promise<void> {
  // Not the first time: that one makes the packed cache, when there is none.
  await userProgram(context, 4, 1);
  const samples: number[] = [];
  for (let round = 0; round < context.rounds(3); round++)
    samples.push((await userProgram(context, 4, 2)).peakBytes);
  const note = `encoder "${context.size('h')}", bf16, one identity of 4 photos: peak resident memory of the process, weights included`;
  context.ratio({ name: 'memory.bytes', value: median(samples), samples, better: 'lower', note });
  context.add({ suite: 'encoder', name: 'memory', contestant: 'omni-id', dtype: 'bf16', status: 'ok', note, unit: 'bytes', cold: [], warm: samples }); // prettier-ignore
}
