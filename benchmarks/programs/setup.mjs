// What the programs share: each runs in a process of its own and uses the package as a user's would, with nothing of the suite in it, and prints one line of JSON.
import { readFileSync } from 'node:fs';
import { performance } from 'node:perf_hooks';

/** { module, folder, pixels, photos, elements, threads, startedMs, … }, see benchmarks/user_program.ts */
export const setup = JSON.parse(process.argv[2]);
export const { OmniIdEncoder } = await import(setup.module);
export const importedSeconds = seconds();

const bytes = readFileSync(setup.pixels);
export const photos = Array.from(
  { length: setup.photos },
  (_, i) => new Float32Array(bytes.buffer, bytes.byteOffset + 4 * setup.elements * i, setup.elements),
);

/** Since the process was started. */
export function seconds() {
  return (performance.timeOrigin + performance.now() - setup.startedMs) / 1000;
}

export function load(packedCache = 'write') {
  return OmniIdEncoder.load(setup.folder, { threads: setup.threads, packedCache });
}

/** The most memory that this process had resident, bytes (see peakResidentBytes in benchmarks/contestants/serve.ts). */
export function peakResidentBytes() {
  const status = readFileSync('/proc/self/status', 'utf8');
  return 1024 * Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)[1]);
}

export function report(value) {
  console.log(JSON.stringify(value));
}
