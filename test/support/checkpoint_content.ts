import { createHash } from 'node:crypto';
import type {
  CheckpointContent,
  CheckpointTensor,
  StoredCheckpoint,
} from '../../src/train/checkpoint_folder.js';
import { procedural } from './procedural.js';

/** A tensor with values of its own, read in pieces as the engine gives them. */
export function tensorOf(name: string, shape: readonly number[], values: Float32Array): CheckpointTensor {
  return { name, shape, read: (first, count) => values.slice(first, first + count) };
}

/** What a run would save after a step; some hundred kilobytes. */
export function contentOf(step: number): CheckpointContent {
  const tensor = (name: string, shape: readonly number[]): CheckpointTensor =>
    tensorOf(
      name,
      shape,
      procedural(
        `${name} ${step}`,
        shape.reduce((product, n) => product * n, 1),
        0,
        1,
      ),
    );
  return {
    step,
    heldOutLoss: 1 + ((step * 7) % 5),
    state: { step, label: `state of ${step}`, counters: [step, 2 * step] },
    tensors: {
      weights: [tensor('encoder.queries', [64, 384]), tensor('decoders.0.mask_token', [1, 384])],
      moments: [tensor('encoder.queries.m', [64, 384]), tensor('scalar', []), tensor('none', [0, 3])],
    },
  };
}

/** Fails unless a stored checkpoint is the one of its step, bit for bit. */
export async function assertContent(stored: StoredCheckpoint): Promise<void> {
  const expected = contentOf(stored.step);
  const fail = (what: string): never => {
    throw new Error(`${stored.folder}: ${what} is not the one of step ${stored.step}`);
  };
  if (JSON.stringify(stored.state) !== JSON.stringify(expected.state)) fail('the state');
  if (stored.heldOutLoss !== expected.heldOutLoss) fail('the held-out loss');
  if (stored.groups.join() !== Object.keys(expected.tensors).join()) fail('the list of groups');
  for (const [group, tensors] of Object.entries(expected.tensors)) {
    const list = [...tensors];
    const header = await stored.tensors(group);
    if (
      [...header.keys()].sort().join() !==
      list
        .map(({ name }) => name)
        .sort()
        .join()
    )
      fail(group);
    const seen = new Map<string, Float32Array>();
    for await (const { name, first, values } of stored.pieces(group)) {
      const shape = header.get(name)?.shape ?? [];
      let whole = seen.get(name);
      if (!whole) seen.set(name, (whole = new Float32Array(shape.reduce((product, n) => product * n, 1))));
      whole.set(values, first);
    }
    for (const { name, shape, read } of list.map((t) => ({ ...t, read: t.read.bind(t) }))) {
      const count = shape.reduce((product, n) => product * n, 1);
      if (header.get(name)?.shape.join() !== shape.join()) fail(`the shape of ${name}`);
      const hash = (values: Float32Array): string =>
        createHash('sha256')
          .update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
          .digest('hex');
      if (hash(seen.get(name) ?? new Float32Array(0)) !== hash(await read(0, count))) fail(name);
    }
  }
}
