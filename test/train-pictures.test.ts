// A run's pictures: the loss curve and the grid of reconstructions, looked at pixel by pixel.
import sharp from 'sharp';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { drawLossCurve, lossesOf, smoothed, type CurvePoint } from '../src/train/curve.js';
import { drawGrid, maskedPicture, rgb, type Picture } from '../src/train/grid.js';
import { assertRejects } from './support/errors.js';

type Raw = { data: Buffer; width: number; at: (x: number, y: number) => string };

async function decoded(image: Buffer): Promise<Raw> {
  const { data, info } = await sharp(image).removeAlpha().raw().toBuffer({ resolveWithObject: true });
  const at = (x: number, y: number): string => data.toString('hex', 3 * (y * info.width + x), 3 * (y * info.width + x) + 3); // prettier-ignore
  return { data, width: info.width, at };
}

const series = (n: number, loss: (step: number) => number): CurvePoint[] =>
  Array.from({ length: n }, (_, i) => ({ step: 10 * (i + 1), loss: loss(i) }));

/** The corners of a path, in order. */
function pathsOf(svg: string): [x: number, y: number][][] {
  return [...svg.matchAll(/ d="([^"]+)"/g)].map(([, d = '']) =>
    d.slice(1).split('L').map((pair) => pair.split(',').map(Number) as [number, number]),
  ); // prettier-ignore
}

test('the moving average: a constant stays, a step is followed, noise is evened out', () => {
  assert.ok(smoothed(series(100, () => 0.7), 20).every(({ loss }) => Math.abs(loss - 0.7) < 1e-12));
  const window = 10;
  const step = smoothed(series(1000, (i) => (i < 500 ? 0 : 1)), window);
  // After n points the rest is (1 − 1/w)^n.
  assert.ok(Math.abs((step[519]?.loss ?? 0) - (1 - 0.9 ** 20)) < 1e-9);
  assert.is(step[0]?.loss, 0);
  const noise = smoothed(series(1000, (i) => (i % 2 === 0 ? 1 : -1)), 50);
  assert.ok(noise.slice(200).every(({ loss }) => Math.abs(loss) < 0.03));
  assert.equal(smoothed([], 10), []);
}); // prettier-ignore

test('losses are found in a log', () => {
  const entries = [
    { step: 1, kind: 'train', loss: 3 },
    { step: 2, kind: 'train', loss: null },
    { step: 2, kind: 'held_out', loss: 4, other: 5 },
    { step: 3, kind: 'skipped' },
    { step: 4, kind: 'train', loss: 2 },
  ];
  assert.equal(lossesOf(entries), {
    training: [{ step: 1, loss: 3 }, { step: 4, loss: 2 }],
    heldOut: [{ step: 2, loss: 4 }],
  }); // prettier-ignore
});

test('the curve shows training, its average and held-out people to scale', async () => {
  const training = series(500, (i) => 0.3 + 0.4 * Math.exp(-i / 100) + 0.02 * Math.sin(i * 7));
  const heldOut = [{ step: 1000, loss: 0.5 }, { step: 3000, loss: 0.4 }, { step: 5000, loss: 0.3 }]; // prettier-ignore
  const svg = await drawLossCurve({ training, heldOut }, { title: 'nano <synth> & "co"', subtitle: 'a run' });
  const [raw = [], average = [], held = []] = pathsOf(svg);
  assert.is(raw.length, 500);
  assert.is(average.length, 500);
  assert.is(held.length, 3);
  // Equal distances in steps and losses are equal distances in the figure.
  const [a, b, c] = held as [[number, number], [number, number], [number, number]];
  assert.ok(
    Math.abs(a[0] + c[0] - 2 * b[0]) <= 0.2 && c[0] > b[0] && Math.abs(a[1] + c[1] - 2 * b[1]) <= 0.2,
  );
  assert.ok(c[1] > b[1], 'a lower loss is further down');
  assert.ok(Math.abs((raw.at(-1)?.[0] ?? 0) - c[0]) <= 0.1, 'both end at step 5,000');
  for (const label of [
    'steps',
    'loss',
    'training',
    'training, moving average',
    'held-out people',
    '0.5',
    '5k',
  ])
    assert.ok(svg.includes(`>${label}</text>`), `${label} is not in the figure`);
  assert.ok(svg.includes('nano &#60;synth&#62; &#38; &#34;co&#34;'));
  // It is an SVG that a renderer takes, on white, with both colours.
  const image = await decoded(await sharp(Buffer.from(svg)).png().toBuffer());
  assert.is(image.at(1, 1), 'ffffff');
  const [x, y] = held[1] ?? [0, 0];
  assert.is(image.at(Math.round(x), Math.round(y)), 'e45756');
});

test('curves of nothing, of one point, of a constant, and of far too many points', async () => {
  const draw = (training: CurvePoint[], heldOut: CurvePoint[] = []) => drawLossCurve({ training, heldOut }, { title: 't' });
  for (const points of [[], series(1, () => 0.5), series(50, () => 0.5), series(3, () => 0)]) {
    const svg = await draw(points, points);
    assert.not.match(svg, /NaN|Infinity|undefined/);
    await sharp(Buffer.from(svg)).png().toBuffer();
  }
  const many = await draw(series(100_000, (i) => 1 / (i + 1)));
  assert.ok(many.length < 200_000, `${many.length} characters`);
  // The last point is always there, at the right end.
  const ends = pathsOf(many).map((path) => path.at(-1)?.[0]);
  assert.ok(ends.every((end) => end === 740), `paths end at ${ends.join(', ')}`);
}); // prettier-ignore

const solid = (width: number, height: number, colour: readonly number[]): Picture => ({
  data: Uint8Array.from({ length: 3 * width * height }, (_, i) => colour[i % 3] ?? 0),
  width,
  height,
});

test('values become bytes: channels, normalisation, and what lies outside', () => {
  const data = Float32Array.from([0, 0.5, 1, 2, /* G */ -1, 0.25, 1, NaN, /* B */ 0.1, 0.2, 0.3, 0.4]);
  assert.equal([...rgb({ data, width: 2, height: 2 })], [0, 0, 26, 128, 64, 51, 255, 255, 77, 255, 0, 102]);
  // What CLIP's normalisation made of bytes comes back.
  const mean = [0.48145466, 0.4578275, 0.40821073] as const;
  const std = [0.26862954, 0.26130258, 0.27577711] as const;
  const bytes = Uint8Array.from({ length: 768 }, (_, i) => (i * 7) % 256);
  const planes = new Float32Array(768);
  for (let c = 0; c < 3; c++)
    for (let i = 0; i < 256; i++) planes[256 * c + i] = ((bytes[3 * i + c] ?? 0) / 255 - mean[c]!) / std[c]!; // eslint-disable-line @typescript-eslint/no-non-null-assertion
  assert.equal(rgb({ data: planes, width: 16, height: 16, normalisation: { mean, std } }), bytes);
}); // prettier-ignore

test('pictures whose data does not fit their size', async () => {
  await assertRejects(() => rgb({ data: new Uint8Array(10), width: 2, height: 2 }), 'ERR_INVALID_ARGUMENT', '2 × 2', '10 values, expected 12'); // prettier-ignore
});

test('masked targets show their visible patches', () => {
  // Three patches across; of 7 pixels they are 2, 3 and 2 wide.
  for (const [side, second, third] of [
    [6, 2, 4],
    [7, 2, 5],
  ] as const) {
    const data = Uint8Array.from({ length: 3 * side * side }, (_, i) => i);
    const masked = maskedPicture({ data, width: side, height: side }, [0, 5, 7], 3);
    for (let y = 0; y < side; y++)
      for (let x = 0; x < side; x++)
        for (let c = 0; c < 3; c++) {
          const i = 3 * (side * y + x) + c;
          const [row, column] = [y, x].map((at) => (at < second ? 0 : at < third ? 1 : 2));
          const visible = ['0 0', '1 2', '2 1'].includes(`${row} ${column}`);
          assert.is(masked.data[i], visible ? data[i] : 128);
        }
  }
});

test('a grid has its pictures where they belong', async () => {
  const [red, green, blue] = [[255, 0, 0], [0, 255, 0], [0, 0, 255]] as const; // prettier-ignore
  const { png, width, height } = await drawGrid([
    { title: 'person <1>', rows: [
      { label: 'inputs', pictures: [solid(16, 16, red), solid(16, 16, green)] },
      { label: 'targets', pictures: [solid(16, 16, blue), solid(8, 8, red), solid(16, 16, green)] },
    ] },
    { rows: [{ label: 'inputs', pictures: [{ data: new Float32Array(3 * 16 * 16).fill(1, 0, 256), width: 16, height: 16 }] }] },
  ]); // prettier-ignore
  const image = await decoded(png);
  const { width: w, height: h, channels } = await sharp(png).metadata();
  assert.equal([w, h, channels], [width, height, 3]);
  // 112 px of labels, then cells of 16 px, 4 px apart; a title takes 26 px.
  assert.equal([width, height], [112 + 3 * 20 + 4, 26 + 3 * 20 + 2 * 4 + 4]);
  const cell = (column: number, top: number): string => {
    const colours = new Set<string>();
    for (let y = top; y < top + 16; y++)
      for (let x = 116 + 20 * column; x < 132 + 20 * column; x++) colours.add(image.at(x, y));
    return [...colours].join();
  };
  assert.equal([0, 1, 2].map((column) => cell(column, 30)), ['ff0000', '00ff00', 'ffffff']);
  assert.equal([0, 1, 2].map((column) => cell(column, 50)), ['0000ff', 'ff0000', '00ff00']);
  assert.equal([0, 1, 2].map((column) => cell(column, 74)), ['ff0000', 'ffffff', 'ffffff']);
  // The gaps between cells are white.
  assert.is(image.at(133, 35), 'ffffff');
}); // prettier-ignore

test('small pictures keep their pixels, large ones are made smaller, and nothing is distorted', async () => {
  const checker: Picture = { data: Uint8Array.from([255, 0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0]), width: 2, height: 2 };
  const small = await decoded((await drawGrid([{ rows: [{ label: '', pictures: [checker] }] }], 32)).png);
  assert.equal([[116, 4], [131, 19], [132, 4], [116, 20], [147, 35]].map(([x = 0, y = 0]) => small.at(x, y)), ['ff0000', 'ff0000', '00ff00', '0000ff', '000000']);
  const wide = await decoded((await drawGrid([{ rows: [{ label: '', pictures: [solid(200, 100, [9, 9, 9])] }] }], 50)).png);
  assert.equal([[141, 8], [141, 29], [141, 50]].map(([x = 0, y = 0]) => wide.at(x, y)), ['ffffff', '090909', 'ffffff']);
}); // prettier-ignore

test('labels and titles are written', async () => {
  const bare = await decoded((await drawGrid([{ rows: [{ label: '', pictures: [solid(40, 40, [0, 0, 0])] }] }])).png);
  const labelled = await decoded((await drawGrid([{ rows: [{ label: 'targets', pictures: [solid(40, 40, [0, 0, 0])] }] }])).png);
  const dark = ({ data }: Raw): number => data.filter((value) => value < 100).length;
  assert.ok(dark(labelled) > dark(bare), 'no letters: does this machine have a font?');
}); // prettier-ignore

test.run();
