import sharp from 'sharp';
import type { Context } from '../context.js';
import { modelFolder } from '../fixtures.js';
import { median } from '../statistics.js';
import { decodePhoto, type RawImage } from '../../src/data/photo.js';
import { OmniIdEncoder } from '../../src/models/omni_id_encoder.js';
import { procedural } from '../../test/support/procedural.js';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Files of 1024 × 1024 pixels whose content costs a decoder about what photos do: noise at three scales, quality 90, some 400 kB each. */
async function makeJpegs(context: Context, count: number, edge: number): Promise<string[]> {
  const paths: string[] = [];
  for (let i = 0; i < count; i++) {
    const noise = async (size: number, amplitude: number): Promise<Uint8Array> => {
      const values = procedural(`jpeg ${i} ${size}`, size * size * 3, 128, amplitude);
      return sharp(Uint8Array.from(values), { raw: { width: size, height: size, channels: 3 } })
        .resize(edge, edge, { kernel: 'cubic' })
        .raw()
        .toBuffer();
    };
    const layers = [await noise(8, 90), await noise(64, 40), await noise(512, 16)];
    const pixels = new Uint8Array(edge * edge * 3);
    for (let j = 0; j < pixels.length; j++)
      pixels[j] = Math.max(
        0,
        Math.min(
          255,
          layers.reduce((sum, layer) => sum + (layer[j] ?? 0) - 128, 128),
        ),
      );
    const path = join(context.folder, `photo-${i}.jpg`);
    const file = sharp(pixels, { raw: { width: edge, height: edge, channels: 3 } }).jpeg({ quality: 90 });
    writeFileSync(path, await file.toBuffer());
    paths.push(path);
  }
  return paths;
}

/** Decodes on all of libuv's threads: as many at once as keep them busy. */
async function decodeAll(paths: readonly string[]): Promise<RawImage[]> {
  const images: RawImage[] = [];
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let i = next++; i < paths.length; i = next++)
      images[i] = await decodePhoto(paths[i] ?? '', { photo: i }, {});
  };
  await Promise.all(Array.from({ length: 8 }, worker));
  return images;
}

/**
 * From JPEG files to tokens, against what the two parts take alone, one after the other and each on all cores: 1 when no thread ever waits while
 * there is work.
 */
export async function jpegRatio(context: Context): Promise<void> {
  const size = context.settings.quick ? 'tiny' : 'nano';
  const [count, edge] = context.settings.quick ? [8, 128] : [64, 1024];
  const paths = await makeJpegs(context, count, edge);
  const folder = await modelFolder(size, context.log);
  await using encoder = await OmniIdEncoder.load(folder, {
    threads: context.settings.threads,
    packedCache: 'write',
  });
  const identities = <T>(photos: readonly T[]): T[][] =>
    Array.from({ length: count / 4 }, (_, i) => photos.slice(4 * i, 4 * i + 4));
  const timed = async (body: () => Promise<unknown>): Promise<number> => {
    const begin = performance.now();
    await body();
    return (performance.now() - begin) / 1000;
  };
  const images = await decodeAll(paths);
  const parts = {
    'decode alone': () => decodeAll(paths),
    'compute alone': () => encoder.embed(identities(images)),
    'files to tokens': () => encoder.embed(identities(paths)),
  };
  const cold: Record<string, number> = {};
  const warm: Record<string, number[]> = {};
  for (const [name, body] of Object.entries(parts)) cold[name] = await timed(body);
  for (let round = 0; round < context.rounds(9); round++)
    for (const [name, body] of Object.entries(parts)) warm[name] = [...(warm[name] ?? []), await timed(body)];
  for (const name of Object.keys(parts)) {
    context.add({ suite: 'encoder', name: `jpeg: ${name}`, contestant: 'omni-id', dtype: 'bf16', status: 'ok', unit: 's', cold: [cold[name] ?? NaN], warm: warm[name] ?? [], images: count }); // prettier-ignore
  }
  const whole = warm['files to tokens'] ?? [];
  const samples = whole.map(
    (seconds, i) => ((warm['decode alone']?.[i] ?? NaN) + (warm['compute alone']?.[i] ?? NaN)) / seconds,
  );
  const note = `encoder "${size}", bf16, ${count} JPEG files of ${edge} px: images/s ÷ 1/(decode alone + resize and compute alone)`;
  context.ratio({ name: 'jpeg.vs_ideal', value: median(samples), samples, better: 'higher', note });
}
