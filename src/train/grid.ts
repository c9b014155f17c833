import sharp from 'sharp';
import { ArgumentError } from '../errors.js';
import { rgbBytes } from '../models/patches.js';
import { escaped } from './svg.js';

/** An image as the engine has it, f32 [3, height, width], or as sharp has it, u8 [height, width, 3]. */
export interface Picture {
  readonly data: Float32Array | Uint8Array;
  readonly width: number;
  readonly height: number;
  /** Of f32: what the values were normalised with. Default: none, they are from 0 to 1. */
  readonly normalisation?: {
    readonly mean: readonly [number, number, number];
    readonly std: readonly [number, number, number];
  };
}

export interface GridRow {
  readonly label: string;
  readonly pictures: readonly Picture[];
}

/** Rows that belong together: those of one person. */
export interface GridBlock {
  readonly title?: string;
  readonly rows: readonly GridRow[];
}

/** A PNG and its size. */
export interface GridPicture {
  readonly png: Buffer;
  readonly width: number;
  readonly height: number;
}

/**
 * RGB bytes of a picture, row by row. Values outside of what a byte holds are cut off; NaN is black.
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT` when its data does not have its size
 */
export function rgb({ data, width, height, normalisation }: Picture): Uint8Array {
  const pixels = width * height;
  if (data.length !== 3 * pixels) {
    throw new ArgumentError(`a picture of ${width} × ${height} has ${data.length} values, expected ${3 * pixels}`); // prettier-ignore
  }
  if (data instanceof Uint8Array) return data;
  const { mean = [0, 0, 0], std = [1, 1, 1] } = normalisation ?? {};
  return rgbBytes(data, mean, std);
}

/**
 * What a masked target's decoder sees: the visible patches, numbered row by row, on grey.
 * @param across patches in a row and in a column; the picture's size need not be a multiple of it
 */
export function maskedPicture(picture: Picture, visible: Iterable<number>, across: number): Picture {
  const { width, height } = picture;
  const source = rgb(picture);
  const data = new Uint8Array(source.length).fill(128);
  const edge = (patch: number, side: number): number => Math.round((patch * side) / across);
  for (const patch of visible) {
    const [row, column] = [Math.floor(patch / across), patch % across];
    for (let y = edge(row, height); y < edge(row + 1, height); y++) {
      const [first, end] = [column, column + 1].map((at) => 3 * (y * width + edge(at, width)));
      data.set(source.subarray(first, end), first);
    }
  }
  return { data, width, height };
}

const gap = 4;
const titleHeight = 26;
const labelWidth = 112;
/**
 * Puts pictures into one PNG: a row for each list of them, with its label on the left, and a title over each block.
 * @param cell side of a picture in the grid, in pixels. Default: that of the largest one
 */
export async function drawGrid(blocks: readonly GridBlock[], cell?: number): Promise<GridPicture> {
  const rows = blocks.flatMap((block) => block.rows);
  const side = cell ?? Math.max(1, ...rows.flatMap(({ pictures }) => pictures.map((p) => Math.max(p.width, p.height)))); // prettier-ignore
  const columns = Math.max(1, ...rows.map(({ pictures }) => pictures.length));
  const width = labelWidth + columns * (side + gap) + gap;
  const titles = blocks.filter(({ title }) => title !== undefined).length;
  const height = titles * titleHeight + rows.length * (side + gap) + blocks.length * gap + gap;
  const canvas = new Uint8Array(3 * width * height).fill(255);
  const texts: string[] = [];
  let y = gap;
  for (const { title, rows: own } of blocks) {
    if (title !== undefined) {
      texts.push(`<text x="${gap}" y="${y + 17}" font-weight="bold">${escaped(title)}</text>`);
      y += titleHeight;
    }
    for (const { label, pictures } of own) {
      texts.push(`<text x="${gap}" y="${y + side / 2 + 4}">${escaped(label)}</text>`);
      for (const [column, picture] of pictures.entries()) {
        const bytes = await fitted(picture, side);
        const left = labelWidth + gap + column * (side + gap);
        for (let line = 0; line < side; line++)
          canvas.set(bytes.subarray(3 * line * side, 3 * (line + 1) * side), 3 * ((y + line) * width + left));
      }
      y += side + gap;
    }
    y += gap;
  }
  const labels = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="12">${texts.join('')}</svg>`;
  const png = await sharp(canvas, { raw: { width, height, channels: 3 } })
    .composite([{ input: Buffer.from(labels) }])
    .removeAlpha()
    .png()
    .toBuffer();
  return { png, width, height };
}

/** RGB bytes of a picture at the grid's size; small ones keep their pixels visible. */
async function fitted(picture: Picture, side: number): Promise<Uint8Array> {
  const { width, height } = picture;
  const bytes = rgb(picture);
  if (width === side && height === side) return bytes;
  return sharp(bytes, { raw: { width, height, channels: 3 } })
    .resize(side, side, {
      fit: 'contain',
      background: 'white',
      kernel: Math.max(width, height) < side ? 'nearest' : 'lanczos3',
    })
    .raw()
    .toBuffer();
}
