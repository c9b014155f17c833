// 20,000 mutated headers and configs: each is read, or rejected with one of the package's errors. Accepted headers go on to the native weights, which
// are then read: under the sanitizers, nothing may be touched that the file does not hold.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { native } from '../src/bindings.js';
import { OmniIdError } from '../src/errors.js';
import { typed } from '../src/graph/session.js';
import { openCheckpoint, registerWeights } from '../src/io/checkpoint.js';
import { parseClipVisionConfig, parseOmniIdConfig } from '../src/io/config.js';
import { parseSafetensorsHeader } from '../src/io/safetensors.js';
import { golden } from './support/golden.js';

const seed = Number(process.env['OMNI_ID_FUZZ_SEED'] ?? 1);

/** xorshift32: the same mutations on every machine. */
function generator(state: number): (bound: number) => number {
  return (bound) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % bound;
  };
}
const random = generator(seed * 0x9e3779b1 + 1);
const pick = <T>(values: readonly T[]): T => values[random(values.length)] as T;

const tokens = ['0', '-1', '1e99', '18446744073709551616', '9007199254740993', 'null', '[]', '{}', '""', '"F32"', '"BF16"', '1.5', '__proto__', '"\\u0000"', 'true', '[[0]]', '4294967296', '2.0', '8e0', '-0', '[[[[0]]]]', '{"a":{"a":{"a":0}}}']; // prettier-ignore
/** What makes a small header large: nesting that recursion runs out of stack on, and shapes that take long to multiply. */
const bulky = [
  '['.repeat(20_000) + ']'.repeat(20_000),
  '{"a":'.repeat(20_000) + '0' + '}'.repeat(20_000),
  `[${Array(50_000).fill('1').join()}]`,
  `[${Array(50_000).fill('4294967296').join()}]`,
];

/** One change to a text: a byte, a piece cut out, doubled or swapped, a number or a token replaced. */
function mutated(text: string): string {
  const at = random(text.length + 1);
  const length = 1 + random(pick([2, 8, 64]));
  if (random(500) === 0) return text.replace(/\[[^\]]*\]/, pick(bulky));
  switch (random(8)) {
    case 0:
      return text.slice(0, at) + String.fromCharCode(random(256)) + text.slice(at + 1);
    case 1:
      return text.slice(0, at) + text.slice(at + length);
    case 2:
      return text.slice(0, at) + text.slice(at, at + length) + text.slice(at);
    case 3:
      return text.slice(0, at);
    case 4:
      return text.slice(0, at) + pick(tokens) + text.slice(at);
    default: {
      // Numbers and strings are where the meaning is.
      const spots = [...text.matchAll(random(2) ? /-?\d+(\.\d+)?/g : /"[^"]*"/g)];
      const spot = spots[random(Math.max(1, spots.length))];
      if (!spot) return text;
      const near = String(Number(spot[0]) + pick([1, -1, 4, -4, 64]));
      return (
        text.slice(0, spot.index) + pick([near, near, ...tokens]) + text.slice(spot.index + spot[0].length)
      );
    }
  }
}

function outcome(body: () => unknown, input: string): 'read' | 'rejected' {
  try {
    body();
    return 'read';
  } catch (error) {
    if (typed(error) instanceof OmniIdError) return 'rejected';
    throw new Error(`not one of the package's errors for: ${input.slice(0, 2000)}`, { cause: error });
  }
}

const { folder } = await golden('clip_vision_gelu');
const bytes = readFileSync(join(folder, 'model.safetensors'));
const headerLength = Number(bytes.readBigUInt64LE(0));
const whole = bytes.toString('latin1', 8, 8 + headerLength);
// A small header, so that a mutation is likely to hit something that matters.
const small =
  '{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},' +
  '"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"F16","shape":[2,2,1],"data_offsets":[32,40]}}';

test('mutated headers', () => {
  const counts = { read: 0, rejected: 0 };
  for (let i = 0; i < 12_000; i++) {
    let text = i % 4 === 0 ? whole : small;
    const data = i % 4 === 0 ? bytes.length - 8 - headerLength : 40;
    for (let n = 1 + random(3); n > 0; n--) text = mutated(text);
    const header = Buffer.from(text, 'latin1');
    const result = outcome(() => parseSafetensorsHeader(header, 8 + header.length + data, 'fuzz'), text);
    // What is read has sizes that the reference reads too: digits and nothing else.
    if (result === 'read') assert.not.match(text, /"(shape|data_offsets)"\s*:\s*\[[^\]]*[-.eE]/);
    counts[result]++;
  }
  console.log(`  ${counts.read} read, ${counts.rejected} rejected`);
  assert.ok(
    counts.read > 100 && counts.rejected > 1000,
    'the mutations are neither all harmless nor all fatal',
  );
});

test('mutated configs', async () => {
  const encoder = JSON.stringify((await golden('omni_encoder')).config);
  const vision = JSON.stringify((await golden('clip_vision_gelu')).config);
  const counts = { read: 0, rejected: 0, text: 0 };
  for (let i = 0; i < 6_000; i++) {
    const isEncoder = i % 2 === 0;
    let text = isEncoder ? encoder : vision;
    for (let n = 1 + random(3); n > 0; n--) text = mutated(text);
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch {
      counts.text++; // readJson() reports these
      continue;
    }
    counts[
      outcome(() => (isEncoder ? parseOmniIdConfig(json, 'fuzz') : parseClipVisionConfig(json, 'fuzz')), text)
    ]++;
  }
  console.log(`  ${counts.read} read, ${counts.rejected} rejected, ${counts.text} not JSON`);
  assert.ok(counts.read > 100 && counts.rejected > 500);
});

test('mutated files, into the native weights', async () => {
  const scratch = mkdtempSync(join(tmpdir(), 'omni-id-fuzz-'));
  const path = join(scratch, 'model.safetensors');
  const binding = native();
  let read = 0;
  for (let i = 0; i < 2_000; i++) {
    let text = small;
    for (let n = random(3); n > 0; n--) text = mutated(text);
    const header = Buffer.from(text, 'latin1');
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(header.length + (random(20) === 0 ? random(5) - 2 : 0)));
    writeFileSync(path, Buffer.concat([length, header, Buffer.alloc(40, i)]));
    try {
      const checkpoint = await openCheckpoint(path);
      const weights = new binding.Weights();
      registerWeights(weights, checkpoint);
      for (const name of weights.names()) {
        const { shape } = weights.type(name);
        const count = shape.reduce((product, n) => product * n, 1);
        for (const dtype of ['f32', 'f16', 'bf16'] as const) weights.read(name, dtype, 0, count);
      }
      read++;
      weights.dispose();
    } catch (error) {
      if (!(typed(error) instanceof OmniIdError))
        throw new Error(`not one of the package's errors for: ${text}`, { cause: error });
    }
  }
  console.log(`  ${read} read`);
  rmSync(scratch, { recursive: true, force: true });
  assert.ok(read > 100);
});

test('the native layer trusts no offsets either', () => {
  const scratch = mkdtempSync(join(tmpdir(), 'omni-id-fuzz-'));
  const path = join(scratch, 'file');
  writeFileSync(path, Buffer.alloc(1000));
  const binding = native();
  const file = new binding.MappedFile(path);
  const weights = new binding.Weights();
  for (let i = 0; i < 5_000; i++) {
    const number = (): number =>
      pick([0, 1, 7, 996, 999, 1000, 1001, 2 ** 31, 2 ** 32, 2 ** 53, -1, 0.5, NaN, Infinity]);
    const input = { offset: number(), shape: Array.from({ length: random(4) }, number) };
    outcome(() => {
      weights.setMapped('w', { dtype: pick(['f32', 'f16', 'bf16']), shape: input.shape }, file, input.offset);
      weights.read('w', 'f32', number(), number());
    }, JSON.stringify(input));
    outcome(() => file.bytes(number(), number()), 'bytes');
    outcome(() => {
      weights.setPacked('p', file, number(), number());
      weights.readPacked('p', number(), number());
    }, 'packed');
  }
  rmSync(scratch, { recursive: true, force: true });
});

test.run();
