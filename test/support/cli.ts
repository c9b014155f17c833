// The built command line in processes of its own, in a scratch folder with a model and photos of three people.
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { readSafetensors, readSafetensorsHeader } from '../../src/io/safetensors.js';
import { runProgram, type Ended, type ProgramOptions } from './process.js';

const root = join(import.meta.dirname, '../..');
export const cli = join(root, 'dist/cli.js');
assert.ok(existsSync(cli), `${cli} is not there: run "npm run build:ts" first`);
export const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  version: string;
};

const scratch = mkdtempSync(join(tmpdir(), 'omni-id-cli-'));
export const at = (...names: string[]): string => join(scratch, ...names);

export function omniId(options: readonly string[], settings: ProgramOptions = {}): Promise<Ended> {
  return runProgram(process.execPath, [cli, ...options], { cwd: scratch, ...settings });
}

/** Fails unless the command ended with this code, and not by a signal or with a stack trace. */
export function assertEnded(ended: Ended, code: number): void {
  const all = JSON.stringify(ended, null, 2);
  assert.is(ended.code, code, all);
  assert.not.match(ended.stderr, /\n {4}at /, all);
  // What a progress bar or colours would write: nothing here is a terminal.
  // eslint-disable-next-line no-control-regex
  assert.not.match(ended.stdout + ended.stderr, /[\r\x1b]/, all);
}

/** Runs a command that must succeed and have nothing to warn of; its stdout. */
export async function succeed(...options: string[]): Promise<string> {
  const ended = await omniId(options);
  assertEnded(ended, 0);
  assert.is(ended.stderr, '');
  return ended.stdout;
}

/** Runs a command that must fail, with and without --json, and say the same; the words are looked for in its message. */
export async function fail(
  options: readonly string[],
  expected: { exit: number; code: string; words: readonly string[] },
): Promise<Ended> {
  const [plain, json] = await Promise.all([omniId(options), omniId([...options, '--json'])]);
  assertEnded(plain, expected.exit);
  assert.is(plain.stdout, '');
  assertEnded(json, expected.exit);
  const { error } = JSON.parse(json.stdout) as { error: { code: string; message: string } };
  assert.is(error.code, expected.code);
  assert.ok(plain.stderr.includes(error.message), `"${error.message}" is not in ${plain.stderr}`);
  for (const word of expected.words)
    assert.ok(error.message.includes(word), `"${word}" is not in: ${error.message}`);
  return plain;
}

export interface EmbedResult {
  readonly shape: readonly number[];
  readonly identities: readonly { name: string; photos: number }[];
  readonly failed: readonly { identity: string; photo: string; code: string; message: string }[];
  readonly photosPerSecond: number;
  readonly out?: string;
  readonly info: { device: string; dtype: string; threads: number };
}

/** The tokens of an `--out` file, whatever its ending. */
export async function readTokens(
  path: string,
): Promise<{ shape: readonly number[]; data: Float32Array; names?: string[] }> {
  if (path.endsWith('.safetensors')) {
    const { metadata } = await readSafetensorsHeader(path);
    const tensor = (await readSafetensors(path)).get('tokens');
    if (!(tensor?.data instanceof Float32Array)) throw new Error(`${path} has no f32 tensor "tokens"`);
    const names = JSON.parse(metadata.get('identities') ?? 'null') as string[];
    return { shape: tensor.shape, data: tensor.data, names };
  }
  const bytes = readFileSync(path);
  if (path.endsWith('.json')) {
    const { shape, identities } = JSON.parse(bytes.toString()) as {
      shape: number[];
      identities: { name: string; tokens: number[][] }[];
    };
    const data = Float32Array.from(identities.flatMap(({ tokens }) => tokens.flat()));
    return { shape, data, names: identities.map(({ name }) => name) };
  }
  assert.is(bytes.toString('latin1', 0, 8), '\x93NUMPY\x01\x00');
  const start = 10 + bytes.readUInt16LE(8);
  assert.is(start % 64, 0);
  const head = bytes.toString('latin1', 10, start);
  assert.match(head, "'descr': '<f4', 'fortran_order': False");
  const shape = (/\(([^)]*)\)/.exec(head)?.[1] ?? '').split(',').map(Number);
  return { shape, data: new Float32Array(new Uint8Array(bytes.subarray(start)).buffer) };
}

export const weights = at('nano');
export const people = at('people');
export const photosOf = (name: string): string[] =>
  readdirSync(join(people, name)).map((file) => join(people, name, file));

/** Makes `weights` and `people`. */
export async function prepare(): Promise<void> {
  for (const name of ['rendered-1', 'rendered-2', 'rendered-3']) {
    cpSync(join(root, 'examples/photos', name), join(people, name), { recursive: true });
  }
  rmSync(join(people, 'rendered-2/view-4.png'));
  assert.match(await succeed('init', 'nano', '--out', weights, '--seed', '7'), 'nano');
}

export function cleanUp(): void {
  rmSync(scratch, { recursive: true, force: true });
}
