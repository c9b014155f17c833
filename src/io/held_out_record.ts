import { join } from 'node:path';
import { z } from 'zod';
import { viewFields } from '../data/view_options.js';
import { field, flag, strict, told, whole } from '../kinds.js';
import { writeFileAtomically } from './atomic_file.js';
import { readJson } from './config.js';
import { exists } from './files.js';
import { parsed } from './schema.js';

/**
 * Who training has kept out: beside the model, so that whoever judges it need not know how it was trained. Rendered people are told by their seeds,
 * others by the names that the data set gives them.
 */
const schema = z.discriminatedUnion(
  'kind',
  [
    strict({
      kind: z.literal('rendered'),
      /** Seed of the first person that was held out; the others follow. */
      firstSeed: field(whole(0)),
      identities: field(whole(0)),
      /** Seeds that were trained on. */
      trained: strict({ firstSeed: field(whole(0)), identities: field(whole(1)) }),
      /** What of their views was chosen instead of drawn, in training as in its tests. */
      view: strict(viewFields).default({}),
    }),
    strict({
      kind: z.literal('stored'),
      /** Whether they are of another data set than those that were trained on. */
      ofAnotherDataset: field(flag),
      names: z.array(z.string()),
    }),
  ],
  told('kind', 'rendered', 'stored'),
);

export type HeldOutRecord = z.output<typeof schema>;

export const heldOutName = 'held_out.json';

/** @throws {FileError} `ERR_FILE` */
export async function writeHeldOutRecord(folder: string, record: HeldOutRecord): Promise<void> {
  const json = `${JSON.stringify(record, null, 2)}\n`;
  await writeFileAtomically(join(folder, heldOutName), (file) => file.writeFile(json));
}

/**
 * The record in a folder; undefined when there is none, as in models that were not trained by omni-id.
 * @throws {FileError} `ERR_FILE`; {ConfigError} `ERR_CONFIG` when it is damaged
 */
export async function readHeldOutRecord(folder: string): Promise<HeldOutRecord | undefined> {
  const path = join(folder, heldOutName);
  return (await exists(path)) ? parsed(schema, await readJson(path), path, 'people that were held out') : undefined; // prettier-ignore
}
