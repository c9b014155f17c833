// Small data sets of generated pictures: what a photo shows tells whose it is, and its mask covers what is bright.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import sharp, { type Sharp } from 'sharp';

export interface Scratch {
  readonly at: (...names: string[]) => string;
  readonly remove: () => void;
}

export function scratchFolder(name: string): Scratch {
  const folder = mkdtempSync(join(tmpdir(), `omni-id-${name}-`));
  return {
    at: (...names) => join(folder, ...names),
    remove: () => {
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** A picture with one bright disc, off the centre, in the colour of a seed; and the disc's mask. */
export function disc(
  width: number,
  height: number,
  seed: number,
): { pixels: Uint8Array; mask: Uint8Array; photo: Sharp; maskImage: Sharp } {
  const pixels = new Uint8Array(width * height * 3);
  const mask = new Uint8Array(width * height);
  const [x0, y0, radius] = [width * 0.45, height * 0.55, Math.min(width, height) * 0.3];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const inside = (x + 0.5 - x0) ** 2 + (y + 0.5 - y0) ** 2 < radius ** 2;
      const i = y * width + x;
      mask[i] = inside ? 255 : 0;
      pixels.set(inside ? [255, 200 + (seed % 40), 255] : [seed % 60, (seed * 7) % 60, x % 50], 3 * i);
    }
  }
  return {
    pixels,
    mask,
    photo: sharp(pixels, { raw: { width, height, channels: 3 } }),
    maskImage: sharp(mask, { raw: { width, height, channels: 1 } }).toColourspace('b-w'),
  };
}

export function write(path: string, bytes: Uint8Array | string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, bytes);
}

/** Writes identities with so many PNG photos each; every second photo has a mask. */
export async function writePeople(
  folder: string,
  photosOf: Readonly<Record<string, number>>,
  size = 32,
): Promise<void> {
  let seed = 0;
  for (const [name, photos] of Object.entries(photosOf)) {
    for (let photo = 0; photo < photos; photo++) {
      const { photo: image, maskImage } = disc(size, size, seed++);
      write(join(folder, name, `${photo}.png`), await image.png().toBuffer());
      if (photo % 2 === 0) write(join(folder, name, `${photo}.mask.png`), await maskImage.png().toBuffer());
    }
  }
}
