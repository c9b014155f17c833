// Draws docs/figures/rendered.png: 6 people (rows) in 8 views.
//
//   node --import tsx scripts/rendered-figure.mjs
import { Buffer } from 'node:buffer';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';
import { heldOutSeed, RenderedDataset } from '../src/index.ts';

const [people, views, size] = [6, 8, 112];
const dataset = new RenderedDataset({ identities: people, views, firstSeed: heldOutSeed });
const tiles = [];
for (let row = 0; row < people; row++) {
  for (let column = 0; column < views; column++) {
    const { pixels } = await dataset.read(row, column, size);
    const raw = { width: size, height: size, channels: 3 };
    tiles.push({ input: Buffer.from(pixels), raw, left: column * size, top: row * size });
  }
}
const folder = join(import.meta.dirname, '../docs/figures');
mkdirSync(folder, { recursive: true });
const width = views * size;
const height = people * size;
await sharp({ create: { width, height, channels: 3, background: 'black' } })
  .composite(tiles)
  // A palette of 256 colours with dithering: half the bytes.
  .png({ palette: true, effort: 10, compressionLevel: 9 })
  .toFile(join(folder, 'rendered.png'));
