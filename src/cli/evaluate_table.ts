import type { EvaluationReport } from '../eval/evaluate.js';
import type { ProbeResult } from '../eval/ridge.js';
import type { Estimate } from '../eval/statistics.js';
import { counted } from '../text.js';

/** Rows of cells, the first on the left and numbers on the right, as wide as they need. */
function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => (row[column] ?? '').length)),
  );
  const cell = (text: string, column: number): string =>
    column === 0 ? text.padEnd(widths[0] ?? 0) : text.padStart(widths[column] ?? 0);
  return rows.map((row) => row.map(cell).join('  ').trimEnd()).join('\n');
}

const signed = (value: number): string => (value < 0 ? '−' : '+') + Math.abs(value).toFixed(4);
const spread = ({ standardError }: Estimate): string => ` ± ${standardError.toFixed(4)}`;

/** Why these people. */
const whose = {
  seeds: '',
  training: ', held out by training',
  last: ', the last ones: the weights do not tell who was held out',
};

/** What was found out, for people. */
export function evaluationTable(report: EvaluationReport): string {
  const { right, otherPerson, meanPerson, byPhotos, sameColouringOtherShape, sameShapeOtherColouring } =
    report.reconstruction;
  const conditions = [
    ['another person', otherPerson],
    ['the mean of all', meanPerson],
    ['equal colouring, other shape', sameColouringOtherShape],
    ['equal shape, other colouring', sameShapeOtherColouring],
  ] as const;
  const losses = [
    ['whose ℓ', 'loss', 'above right', 'right wins'],
    [
      `the right person (${counted(report.inputs, 'photo')})`,
      right.loss.mean.toFixed(4) + spread(right.loss),
      '',
      '',
    ],
    ...conditions.flatMap(([name, condition]) =>
      condition
        ? [
            [
              name,
              condition.loss.mean.toFixed(4) + spread(condition.loss),
              signed(condition.aboveRight.mean) + spread(condition.aboveRight),
              `${(100 * condition.rightWins).toFixed(1)} %`,
            ],
          ]
        : [],
    ),
    ...byPhotos.map(({ photos, loss, aboveRight }) => [
      `the right one, from ${counted(photos, 'photo')}`,
      loss.mean.toFixed(4) + spread(loss),
      photos === report.inputs ? '' : signed(aboveRight.mean) + spread(aboveRight),
      '',
    ]),
  ];
  const lines = [
    `${counted(report.people, 'person')} (${report.data}${whose[report.chosenBy]}), ${counted(report.targets, 'target')}, ` +
      `${report.visiblePatches} of ${report.patches} patches visible`,
    ...(report.tooFewPhotos > 0
      ? [`left out for lack of photos: ${counted(report.tooFewPhotos, 'person')}`]
      : []),
    ...(report.unreadablePhotos > 0 ? [`photos that could not be read: ${report.unreadablePhotos}`] : []),
    'loss: mean |prediction − target| of normalised pixels ' +
      (report.maskedTargets === report.targets
        ? 'inside of the face'
        : `inside of the face (${counted(report.targets - report.maskedTargets, 'target')} without a mask: all pixels)`),
    '',
    table(losses),
  ];
  const { probe } = report;
  if (!probe) return lines.join('\n');
  const row = (name: string, { meanR2, r2 }: ProbeResult): string[] => [
    name,
    meanR2.toFixed(3),
    ...r2.map((value) => value.toFixed(3)),
  ];
  return [
    ...lines,
    '',
    `R² of a linear probe for the first ${probe.coefficients} identity coefficients; ${counted(probe.trainPeople, 'person')} to fit, ` +
      `${probe.testPeople} to test, ℓ from ${counted(probe.photos, 'photo')}`,
    '',
    table([
      ['encoder, features', 'mean', ...probe.trained.pooled.r2.map((_, i) => String(i + 1))],
      row('trained, mean of tokens', probe.trained.pooled),
      row('trained, all tokens', probe.trained.tokens),
      row('untrained, mean of tokens', probe.untrained.pooled),
      row('untrained, all tokens', probe.untrained.tokens),
    ]),
  ].join('\n');
}
