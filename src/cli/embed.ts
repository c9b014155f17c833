import { extname } from 'node:path';
import { listPhotos, type Grouping } from '../data/photo_files.js';
import { ArgumentError, type ImageError } from '../errors.js';
import type { DeviceName } from '../graph/devices.js';
import { writeFileAtomically } from '../io/atomic_file.js';
import { checkWritable, filesIn } from '../io/files.js';
import { jsonTokens } from '../io/json_tokens.js';
import { writeNpy } from '../io/npy.js';
import { writeSafetensors } from '../io/safetensors_writer.js';
import type { ComputeDType } from '../models/model.js';
import { OmniIdEncoder, type IdentityTokens } from '../models/omni_id_encoder.js';
import { checkNotRead, exitCodes, interruptSignal, printJson, progressBar, warn } from './output.js';
import { counted } from '../text.js';

export interface EmbedCommand {
  readonly group: Grouping;
  readonly weights?: string;
  readonly out?: string;
  readonly device?: DeviceName;
  readonly dtype: ComputeDType;
  readonly threads?: number;
  readonly json?: boolean;
}

const endings = ['.safetensors', '.npy', '.json'];
const endingOf = (path: string): string => extname(path).toLowerCase();

/** Found out before minutes of computing. */
async function checkOutput(path: string): Promise<void> {
  if (!endings.includes(endingOf(path)))
    throw new ArgumentError(`--out ${path}: expected a name ending in ${endings.join(', ')}`);
  await checkWritable(path, `--out ${path}`);
}

async function writeTokens(path: string, result: IdentityTokens, names: readonly string[]): Promise<void> {
  const { data, shape, photos } = result;
  switch (endingOf(path)) {
    case '.npy':
      return writeNpy(path, data, shape);
    case '.json':
      return writeFileAtomically(path, async (file) => {
        for (const piece of jsonTokens(result, names)) await file.writeFile(piece);
      });
    default: {
      const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      const tensor = {
        name: 'tokens',
        dtype: 'F32',
        shape,
        byteLength: bytes.length,
        read: (first: number, count: number) => bytes.subarray(first, first + count),
      } as const;
      return writeSafetensors(path, [tensor], {
        metadata: { identities: JSON.stringify(names), photos: JSON.stringify(photos) },
      });
    }
  }
}

/** `omni-id embed`: photos and folders to identity tokens. Photos that cannot be used are reported and left out. */
export async function embed(paths: readonly string[], options: EmbedCommand): Promise<number> {
  if (options.out !== undefined) await checkOutput(options.out);
  const groups = await listPhotos(paths, options.group);
  if (options.out !== undefined) {
    const model = options.weights === undefined ? [] : await filesIn(options.weights);
    await checkNotRead(options.out, [...groups.flatMap(({ photos }) => photos), ...model]);
  }
  const signal = interruptSignal();
  const load = { device: options.device, dtype: options.dtype, threads: options.threads, signal };

  const started = performance.now();
  await using encoder = await (options.weights === undefined
    ? OmniIdEncoder.create('nano', load)
    : OmniIdEncoder.load(options.weights, load));
  const loaded = performance.now();
  if (options.weights === undefined) {
    warn('no --weights: using a new, untrained "nano" encoder; its tokens do not tell people apart');
  }

  const bad: ImageError[] = [];
  const bar = progressBar('embedding');
  const result = await encoder
    .embed(
      groups.map(({ photos }) => photos),
      {
        signal,
        onProgress: ({ photosDone, photosTotal }) => {
          bar.update(photosDone, photosTotal);
        },
        onPhotoError: (error) => bad.push(error),
      },
    )
    .finally(() => {
      bar.stop();
    });
  const seconds = (performance.now() - loaded) / 1000;
  const names = result.identities.map((identity) => groups[identity]?.name ?? '');
  // Of no identity there is nothing to write: a file from before stays.
  const out = names.length > 0 ? options.out : undefined;
  if (out !== undefined) await writeTokens(out, result, names);

  for (const error of bad) warn(`left out: ${error.message}`);
  const photos = result.photos.reduce((sum, count) => sum + count, 0);
  const { info } = encoder;
  if (options.json === true) {
    printJson({
      shape: result.shape,
      identities: names.map((name, i) => ({ name, photos: result.photos[i] })),
      failed: bad.map(({ code, message, identity = 0, photo = 0 }) => ({
        identity: groups[identity]?.name,
        photo: groups[identity]?.photos[photo],
        code,
        message,
      })),
      loadSeconds: (loaded - started) / 1000,
      embedSeconds: seconds,
      photosPerSecond: photos / seconds,
      ...(out === undefined ? {} : { out }),
      info,
    });
  } else {
    for (const [i, name] of names.entries())
      console.log(`${name}: ${counted(result.photos[i] ?? 0, 'photo')}`);
    console.log(
      `${counted(names.length, 'identity')}, tokens [${result.shape.join(', ')}]` +
        (out !== undefined ? ` written to ${out}` : options.out === undefined ? '' : ', nothing written'),
    );
    console.log(
      `loaded in ${((loaded - started) / 1000).toFixed(2)} s, ${counted(photos, 'photo')} in ${seconds.toFixed(2)} s (${(photos / seconds).toFixed(1)} photos/s) on ` +
        `${info.device} (${info.instructionSet}, ${counted(info.threads, 'thread')}, ${info.dtype})`,
    );
  }
  return bad.length > 0 ? exitCodes.failed : exitCodes.ok;
}
