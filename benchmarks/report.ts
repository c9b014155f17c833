import { percent, short, table } from './format.js';
import type { Results, Row } from './results.js';

function timeOf(seconds: number | null): string {
  if (seconds === null) return '';
  if (seconds >= 1) return `${short(seconds)} s`;
  return seconds >= 1e-3 ? `${short(seconds, 1e3)} ms` : `${short(seconds, 1e6)} µs`;
}

function amount({ unit }: Row, value: number | null): string {
  return unit === 'bytes' ? (value === null ? '' : `${short(value, 1e-9)} GB`) : timeOf(value);
}

type Column = readonly [title: string, text: (row: Row) => string];

const columns: readonly Column[] = [
  ['what', ({ name }) => name],
  ['who', ({ contestant }) => contestant],
  ['type', ({ dtype }) => dtype ?? ''],
  ['median', (row) => amount(row, row.median)],
  ['p90', (row) => (row.warm.length > 2 ? amount(row, row.p90) : '')],
  ['p99', (row) => (row.warm.length > 2 ? amount(row, row.p99) : '')],
  ['cold', (row) => amount(row, row.cold[0] ?? null)],
  ['images/s', ({ imagesPerSecond }) => short(imagesPerSecond ?? undefined)],
  ['identities/s', ({ identitiesPerSecond }) => short(identitiesPerSecond ?? undefined)],
  ['GFLOP/s', ({ gflops }) => short(gflops ?? undefined)],
  ['of peak', ({ peakShare }) => percent(peakShare ?? undefined)],
  ['GB/s', ({ gbps }) => short(gbps ?? undefined)],
  ['error', ({ error }) => (error ? short(error.relative ?? NaN, 1, 2) : '')],
  [
    '1 − cosine',
    ({ error }) => (error?.cosine == null ? '' : Math.max(0, 1 - error.cosine).toExponential(0)),
  ],
  ['against', ({ error }) => error?.against ?? ''],
  ['peak memory', ({ peakBytes }) => (peakBytes === undefined ? '' : `${short(peakBytes, 1e-9)} GB`)],
  ['loop p99', ({ loopDelay }) => timeOf(loopDelay?.p99 ?? null)],
  [
    '',
    ({ status, note }) =>
      status === 'ok' ? '' : `${status.toUpperCase()}: ${note?.replaceAll('|', '¦') ?? ''}`,
  ],
];

/** Rows of one suite; columns in which no row says anything are left out. */
function suiteTable(rows: readonly Row[]): string {
  const used = columns.filter(([, text]) => rows.some((row) => text(row) !== ''));
  return table(used.map(([title]) => title), rows.map((row) => used.map(([, text]) => text(row)))); // prettier-ignore
}

/** The results as Markdown, which is also what the terminal shows. */
export function report(results: Results): string {
  const { peak, rows, ratios, peers } = results;
  const parts = [
    `omni-id ${results.packageVersion} (commit ${results.commit}, ${results.compiler}) on ${results.processor}, ${results.instructionSet}, ` +
      `${results.threads} threads, Node ${results.node}, ${results.date}`,
    `Peaks when the run began: f32 ${short(peak.f32, 1e-9)} GFLOP/s, bf16 ${peak.bf16 > 0 ? `${short(peak.bf16, 1e-9)} GFLOP/s` : 'no instructions'}, ` +
      `memory read ${short(peak.memoryRead, 1e-9)} GB/s`,
    ...(results.cuda === undefined ? [] : [`CUDA: ${results.cuda}`]),
    `Peers: ${peers.map(({ name, found, detail }) => (found ? `${name} ${detail}` : `${name} absent (${detail})`)).join('; ')}`,
  ];
  for (const suite of new Set(rows.map((row) => row.suite)))
    parts.push(`## ${suite}`, suiteTable(rows.filter((row) => row.suite === suite)));
  if (ratios.length > 0) {
    const lines = ratios.map(({ name, value, samples, note }) => [
      name,
      short(value),
      String(samples.length),
      note,
    ]);
    parts.push('## Ratios', table(['ratio', 'value', 'samples', 'of'], lines));
  }
  return `${parts.join('\n\n')}\n`;
}

/** One line for each ratio, for programs. */
export function ratioLines({ ratios }: Results): string {
  return ratios.map(({ name, value }) => `ratio ${name} ${value}\n`).join('');
}
