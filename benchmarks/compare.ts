import { readFileSync } from 'node:fs';
import { messageOf } from '../src/errors.js';
import { percent, short, table } from './format.js';
import { resultsSchema, schemaVersion, type Results } from './results.js';
import { median, medianError } from './statistics.js';
import { UsageError } from './usage_error.js';

/**
 * Reads results of the suite.
 * @throws {UsageError} for what is not JSON, not ours, or of another version
 */
export function readResults(path: string): Results {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw new UsageError(`${path}: ${messageOf(error)}`);
  }
  const head = (typeof json === 'object' && json !== null ? json : {}) as {
    schema?: unknown;
    version?: unknown;
  };
  if (head.schema !== 'omni-id-bench') throw new UsageError(`${path}: not results of "omni-id bench --json"`);
  if (head.version !== schemaVersion) {
    throw new UsageError(
      `${path}: results of version ${JSON.stringify(head.version)}, this omni-id reads version ${schemaVersion}; measure again`,
    );
  }
  const parsed = resultsSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new UsageError(`${path}: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'not as expected'}`);
}

/** A number that was measured several times: a row's samples or a ratio's. */
interface Series {
  readonly key: string;
  readonly samples: readonly number[];
  readonly better: 'higher' | 'lower';
}

/** What ours is called: other people's speed is no change of ours. */
const ours = (contestant: string): boolean => contestant.startsWith('omni-id');

function seriesOf({ rows, ratios }: Results): Series[] {
  return [
    ...rows
      .filter(({ status, contestant }) => status === 'ok' && ours(contestant))
      .map(({ suite, name, contestant, dtype, warm }) => ({
        key: [suite, name, contestant, dtype].filter(Boolean).join(', '),
        samples: warm,
        better: 'lower' as const,
      })),
    ...ratios.map(({ name, samples, better }) => ({ key: `ratio ${name}`, samples, better })),
  ].filter(({ samples }) => samples.length > 0);
}

/** A change of less than this is none, however small the noise within one run: from run to run there is more (placement in memory, other guests). */
const least = 0.03;
/** Without samples enough to tell the noise, a change must be this large. */
const unknownNoise = 0.15;

export interface Change {
  readonly key: string;
  readonly before: number;
  readonly after: number;
  /** Of `before`; positive is worse. */
  readonly worse: number;
  /** What a change must exceed to be more than noise: three standard errors of the difference of the medians. */
  readonly noise: number;
  readonly verdict: 'slower' | 'faster' | 'same';
}

function changeOf(a: Series, b: Series): Change {
  const [before, after] = [median(a.samples), median(b.samples)];
  const sign = a.better === 'lower' ? 1 : -1;
  const worse = (sign * (after - before)) / Math.abs(before);
  const errors = [medianError(a.samples), medianError(b.samples)] as const;
  const known = errors[0] !== undefined && errors[1] !== undefined;
  const noise = known
    ? Math.max(least, (3 * Math.hypot(errors[0] ?? 0, errors[1] ?? 0)) / Math.abs(before))
    : unknownNoise;
  return {
    key: a.key,
    before,
    after,
    worse,
    noise,
    verdict: worse > noise ? 'slower' : -worse > noise ? 'faster' : 'same',
  };
}

/** What became slower or faster from `a` to `b`, beyond what the samples scatter. */
export function compareResults(a: Results, b: Results): { changes: Change[]; missing: string[] } {
  const after = new Map(seriesOf(b).map((series) => [series.key, series]));
  const changes: Change[] = [];
  const missing: string[] = [];
  for (const series of seriesOf(a)) {
    const other = after.get(series.key);
    if (other) changes.push(changeOf(series, other));
    else missing.push(series.key);
  }
  return { changes, missing };
}

/** `compare a.json b.json`. @returns whether nothing became slower */
export function compareFiles(pathA: string, pathB: string, print: (text: string) => void): boolean {
  const [a, b] = [readResults(pathA), readResults(pathB)];
  for (const [what, ofA, ofB] of [
    ['quick', a.quick, b.quick],
    ['preset', a.options['preset'], b.options['preset']],
  ] as const) {
    // Rows of one name are of other sizes then.
    if (ofA !== ofB) {
      const [one, other] = [ofA, ofB].map((value) => (value === undefined ? 'none' : JSON.stringify(value)));
      throw new UsageError(`${pathA} and ${pathB} are of different sizes: ${what} ${one} and ${other}`);
    }
  }
  for (const what of ['processor', 'instructionSet', 'threads'] as const) {
    if (a[what] !== b[what]) print(`different ${what}: ${String(a[what])} and ${String(b[what])}`);
  }
  const { changes, missing } = compareResults(a, b);
  if (changes.length === 0) throw new UsageError(`${pathA} and ${pathB} have nothing in common`);
  const different = changes.filter(({ verdict }) => verdict !== 'same').sort((x, y) => y.worse - x.worse);
  if (different.length > 0) {
    const lines = different.map((one) => [
      one.verdict.toUpperCase(),
      one.key,
      short(one.before),
      short(one.after),
      `${one.worse > 0 ? '+' : ''}${percent(one.worse)}`,
      percent(one.noise),
    ]);
    print(table(['', 'what', 'before', 'after', 'worse by', 'noise'], lines));
  }
  const slower = different.filter(({ verdict }) => verdict === 'slower').length;
  if (missing.length > 0) print(`only in ${pathA}: ${missing.join('; ')}`);
  print(`${changes.length} compared: ${slower} slower, ${different.length - slower} faster beyond noise`);
  return slower === 0;
}
