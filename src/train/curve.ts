import type { LogEntry } from './json_log.js';
import { escaped } from './svg.js';

/** A loss after a number of steps. */
export interface CurvePoint {
  readonly step: number;
  readonly loss: number;
}

/** What a loss curve shows. */
export interface LossCurve {
  readonly training: readonly CurvePoint[];
  readonly heldOut: readonly CurvePoint[];
}

/** The losses in a run's log: field `loss` of its lines of kind `train` and `held_out`. */
export function lossesOf(entries: readonly LogEntry[]): LossCurve {
  const of = (kind: string): CurvePoint[] =>
    entries.flatMap(({ kind: its, step, loss }) =>
      its === kind && typeof loss === 'number' && Number.isFinite(loss) ? [{ step, loss }] : [],
    );
  return { training: of('train'), heldOut: of('held_out') };
}

/**
 * The moving average with exponential weights over about `window` points. It is divided by the sum of its weights, so that the beginning is not
 * drawn towards zero (Kingma and Ba 2015, section 3).
 */
export function smoothed(points: readonly CurvePoint[], window: number): CurvePoint[] {
  const decay = 1 - 1 / Math.max(1, window);
  let sum = 0;
  let weights = 0;
  return points.map(({ step, loss }) => {
    sum = decay * sum + loss;
    weights = decay * weights + 1;
    return { step, loss: sum / weights };
  });
}

/** More cannot be told apart in a figure of this width. */
const mostPoints = 2000;
const thinned = (points: readonly CurvePoint[]): readonly CurvePoint[] => {
  const every = Math.ceil(points.length / mostPoints);
  return points.filter((_, i) => i % every === 0 || i === points.length - 1);
};

const [width, height] = [760, 420];
const margin = { left: 62, right: 20, top: 56, bottom: 48 };
const colours = { training: '#4c78a8', heldOut: '#e45756' } as const;

/**
 * Draws the loss over the steps as SVG: of training, faint as it was and its moving average, and of held-out people.
 * @param options.window points that the moving average is over. Default: a fiftieth of them
 */
export async function drawLossCurve(
  { training, heldOut }: LossCurve,
  options: { readonly title: string; readonly subtitle?: string; readonly window?: number },
): Promise<string> {
  // d3 consists of ES modules alone, which the CommonJS build can load only like this.
  const [{ scaleLinear }, { line }] = await Promise.all([import('d3-scale'), import('d3-shape')]);
  const average = smoothed(training, options.window ?? training.length / 50);
  // The axis is for the averages: a few wild steps would leave no room for them. Their lines are cut off.
  const shown = [...average, ...heldOut].map(({ loss }) => loss);
  const [low, high] = shown.reduce(([a, b], loss) => [Math.min(a, loss), Math.max(b, loss)], [Infinity, -Infinity]); // prettier-ignore
  const lastStep = Math.max(1, training.at(-1)?.step ?? 0, heldOut.at(-1)?.step ?? 0);
  const x = scaleLinear([0, lastStep], [margin.left, width - margin.right]);
  const spread = low < high ? (high - low) * 0.05 : Math.max(Math.abs(low) * 0.1, 1e-6);
  const y = scaleLinear(low <= high ? [low - spread, high + spread] : [0, 1], [height - margin.bottom, margin.top]).nice(); // prettier-ignore
  const path = line<CurvePoint>(
    ({ step }) => Number(x(step).toFixed(1)),
    ({ loss }) => Number(y(loss).toFixed(1)),
  );
  const bottom = height - margin.bottom;

  const parts: string[] = [];
  const text = (at: [x: number, y: number], content: string, more = ''): void => {
    parts.push(`<text x="${at[0].toFixed(1)}" y="${at[1].toFixed(1)}"${more}>${escaped(content)}</text>`);
  };
  const stroke = (points: readonly CurvePoint[], colour: string, more: string): void => {
    if (points.length > 0)
      parts.push(`<path d="${path(thinned(points))}" fill="none" stroke="${colour}" ${more} clip-path="url(#plot)"/>`); // prettier-ignore
  };
  text([margin.left, 22], options.title, ' font-size="15" font-weight="bold"');
  if (options.subtitle !== undefined) text([margin.left, 40], options.subtitle, ' fill="#555"');
  const [xFormat, yFormat] = [x.tickFormat(8, '~s'), y.tickFormat(6)];
  for (const tick of y.ticks(6)) {
    parts.push(`<line x1="${margin.left}" x2="${width - margin.right}" y1="${y(tick).toFixed(1)}" y2="${y(tick).toFixed(1)}" stroke="#ddd"/>`); // prettier-ignore
    text([margin.left - 8, y(tick) + 4], yFormat(tick), ' text-anchor="end"');
  }
  for (const tick of x.ticks(8)) {
    parts.push(`<line x1="${x(tick).toFixed(1)}" x2="${x(tick).toFixed(1)}" y1="${bottom}" y2="${bottom + 5}" stroke="#888"/>`); // prettier-ignore
    text([x(tick), bottom + 18], xFormat(tick), ' text-anchor="middle"');
  }
  parts.push(`<line x1="${margin.left}" x2="${width - margin.right}" y1="${bottom}" y2="${bottom}" stroke="#888"/>`); // prettier-ignore
  text([(margin.left + width - margin.right) / 2, height - 10], 'steps', ' text-anchor="middle"');
  text([16, (margin.top + bottom) / 2], 'loss', ` text-anchor="middle" transform="rotate(-90 16 ${((margin.top + bottom) / 2).toFixed(1)})"`); // prettier-ignore

  stroke(training, colours.training, 'stroke-width="1" opacity="0.3"');
  stroke(average, colours.training, 'stroke-width="2"');
  stroke(heldOut, colours.heldOut, 'stroke-width="2"');
  for (const { step, loss } of heldOut.length <= 200 ? heldOut : [])
    parts.push(`<circle cx="${x(step).toFixed(1)}" cy="${y(loss).toFixed(1)}" r="2.5" fill="${colours.heldOut}"/>`); // prettier-ignore

  const legend: [label: string, colour: string, opacity: number][] = [
    ['training', colours.training, 0.3],
    ['training, moving average', colours.training, 1],
    ['held-out people', colours.heldOut, 1],
  ];
  for (const [i, [label, colour, opacity]] of legend.entries()) {
    const at = margin.top + 16 + 18 * i;
    const left = width - margin.right - 190;
    parts.push(`<line x1="${left}" x2="${left + 22}" y1="${at - 4}" y2="${at - 4}" stroke="${colour}" stroke-width="3" opacity="${opacity}"/>`); // prettier-ignore
    text([left + 30, at], label);
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">`,
    `<clipPath id="plot"><rect x="${margin.left}" y="${margin.top}" width="${width - margin.left - margin.right}" height="${bottom - margin.top}"/></clipPath>`,
    '<rect width="100%" height="100%" fill="white"/>',
    ...parts,
    '</svg>\n',
  ].join('\n');
}
