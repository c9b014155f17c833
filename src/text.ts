const plurals: Readonly<Record<string, string>> = { identity: 'identities', person: 'people' };

/** `1 photo`, `2 photos`; `1 person`, `2 people`. */
export function counted(n: number, one: string): string {
  return `${n} ${n === 1 ? one : (plurals[one] ?? `${one}s`)}`;
}

/** `1.50 GB` of 1.5e9 bytes, `0.20 MB` of 2e5. */
export function gigabytes(bytes: number): string {
  return bytes < 1e8 ? `${(bytes / 1e6).toFixed(2)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}
