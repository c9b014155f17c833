import { execFile } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Context } from './context.js';
import { configOf, modelFolder, pixelsOf, type Size } from './fixtures.js';
import { packageEntry, packageRoot } from './paths.js';

/** Whether {@link runUserProgram} imports the built package: as source, tsx adds its own start. */
export function isBuilt(): boolean {
  return packageEntry().built;
}

/**
 * Runs one of `benchmarks/programs` in a process of its own: there a process's start, memory or event loop are what is measured.
 * @param photos preprocessed photos that the program has
 * @param more what else its `setup` holds
 * @returns what the program reported
 */
export async function runUserProgram<T>(
  context: Context,
  name: string,
  size: Size,
  photos: number,
  more: Record<string, unknown> = {},
): Promise<T> {
  const folder = await modelFolder(size, context.log);
  const { imageSize } = configOf(size).vision;
  const elements = 3 * imageSize ** 2;
  const pixels = join(context.folder, `pixels-${size}-${photos}.f32`);
  if (!existsSync(pixels)) {
    const all = new Float32Array(photos * elements);
    for (let i = 0; i < photos; i++) all.set(pixelsOf(i, imageSize), i * elements);
    writeFileSync(pixels, new Uint8Array(all.buffer));
  }
  const { arguments: options, module } = packageEntry();
  const { threads } = context.settings;
  const setup = { module, folder, pixels, photos, elements, threads, startedMs: Date.now(), ...more };
  const program = [join(packageRoot, 'benchmarks/programs', `${name}.mjs`), JSON.stringify(setup)];
  const { stdout } = await promisify(execFile)(process.execPath, [...options, ...program], {
    maxBuffer: 1 << 26,
  });
  return JSON.parse(stdout) as T;
}
