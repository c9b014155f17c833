/** A table in Markdown, which a terminal shows as well: columns aligned, numbers to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const width = head.map((title, i) =>
    Math.max(3, ...[title, ...rows.map((row) => row[i] ?? '')].map(length)),
  );
  const right = head.map(
    (_, i) => rows.length > 0 && rows.every((row) => /^([-+\d.×%]|$)/.test(row[i] ?? '')),
  );
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, i) => pad(cell, width[i] ?? 0, right[i] ?? false)).join(' | ')} |`;
  const rule = `|${width.map((n, i) => `${'-'.repeat(n + 1)}${right[i] ? ':' : '-'}`).join('|')}|`;
  return [line(head), rule, ...rows.map(line)].join('\n');
}

function length(text: string): number {
  return Array.from(text).length;
}

function pad(text: string, width: number, right: boolean): string {
  const space = ' '.repeat(Math.max(0, width - length(text)));
  return right ? space + text : text + space;
}

/** A number in three or four digits, or nothing where there is none. */
export function short(value: number | undefined, scale = 1, digits = 3): string {
  if (value === undefined || Number.isNaN(value)) return '';
  const scaled = value * scale;
  if (scaled !== 0 && Math.abs(scaled) < 1e-3) return scaled.toExponential(1);
  return Math.abs(scaled) >= 100 ? scaled.toFixed(0) : scaled.toPrecision(digits);
}

export function percent(share: number | undefined): string {
  return share === undefined || Number.isNaN(share) ? '' : `${(100 * share).toFixed(1)} %`;
}
