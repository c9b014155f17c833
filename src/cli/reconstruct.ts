import type { Command } from 'commander';
import { listPhotos } from '../data/photo_files.js';
import { ArgumentError, type ImageError } from '../errors.js';
import type { DeviceName } from '../graph/devices.js';
import { writeFileAtomically } from '../io/atomic_file.js';
import { checkWritable, isFolder, isSameFile } from '../io/files.js';
import { maskRatio, seed } from '../kinds.js';
import type { ComputeDType } from '../models/model.js';
import { loadPair } from '../models/trained_pair.js';
import { drawGrid, maskedPicture, type Picture } from '../train/grid.js';
import { addComputeOptions, jsonOption, numberOf } from './options.js';
import { checkNotRead, exitCodes, interruptSignal, printJson, progressBar, warn } from './output.js';

export interface ReconstructCommand {
  readonly weights: string;
  readonly inputs: readonly string[];
  readonly target: string;
  readonly maskRatio?: number;
  readonly seed: number;
  readonly out: string;
  readonly device?: DeviceName;
  readonly dtype: ComputeDType;
  readonly threads?: number;
  readonly json?: boolean;
}

/**
 * The photos that ℓ is made from. The target is not among those of a folder: the encoder would see what is asked for.
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT` for a folder of several people, or without a photo but the target
 */
async function inputPhotos(paths: readonly string[], target: string): Promise<string[]> {
  const inputs: string[] = [];
  let targetNamed = false;
  for (const path of paths) {
    const groups = await listPhotos([path], 'folder');
    if (groups.length > 1)
      throw new ArgumentError(
        `--inputs ${path}: its photos lie in ${groups.length} folders, as those of several people do, expected one person's: of one person, name each of the folders`,
      );
    const photos = groups.flatMap((group) => group.photos);
    const inFolder = await isFolder(path);
    for (const photo of photos) {
      const isTarget = await isSameFile(photo, target);
      targetNamed ||= isTarget && !inFolder;
      if (!isTarget || !inFolder) inputs.push(photo);
    }
  }
  if (inputs.length === 0)
    throw new ArgumentError(`--inputs ${paths.join(' ')}: no photo but the target, expected others of the person`); // prettier-ignore
  if (targetNamed) warn(`the target is one of the inputs: the encoder sees all of ${target}`);
  return inputs;
}

/**
 * `omni-id reconstruct`: a photo rebuilt from a few of its patches and other photos of the person, as a picture. Inputs that cannot be used are
 * reported and left out.
 */
export async function reconstruct(options: ReconstructCommand): Promise<number> {
  const { weights, target, seed, out } = options;
  if (!out.toLowerCase().endsWith('.png'))
    throw new ArgumentError(`--out ${out}: expected a name ending in .png`);
  await checkWritable(out, `--out ${out}`);
  if (await isFolder(target))
    throw new ArgumentError(`--target ${target}: this is a folder, expected one photo`);
  const given = await inputPhotos(options.inputs, target);
  await checkNotRead(out, [...given, target]);
  const signal = interruptSignal();
  const { device, dtype, threads } = options;

  await using pair = await loadPair(weights, { device, dtype, threads, signal });
  const { encoder, decoder } = pair;
  const ratio = options.maskRatio ?? decoder.config.maskRatio;
  const bar = progressBar('embedding');
  const bad: ImageError[] = [];
  const tokens = await encoder
    .embed([given], {
      signal,
      onPhotoError: (error) => bad.push(error),
      onProgress: ({ photosDone, photosTotal }) => {
        bar.update(photosDone, photosTotal);
      },
    })
    .finally(() => {
      bar.stop();
    });
  const [first] = bad;
  if (first && tokens.identities.length === 0) throw first;
  for (const { message } of bad) warn(`left out: ${message}`);
  const leftOut = new Set(bad.map(({ photo }) => photo));
  const inputs = given.filter((_, i) => !leftOut.has(i));
  const result = await decoder.reconstruct(tokens, [[target]], { maskRatio: ratio, seed, signal });

  const { imageSize: size, imageMean: mean, imageStd: std, patchSize } = decoder.config;
  const picture = (data: Float32Array): Picture => ({
    data,
    width: size,
    height: size,
    normalisation: { mean, std },
  });
  const shown = (await decoder.prepare([...inputs, target], { signal })).map(picture);
  const [whole] = shown.slice(-1);
  const visible = result.visible[0] ?? [];
  const rebuilt = picture(result.prediction);
  if (!whole) throw new Error('the target was not prepared');
  // Five photos in a row, so that the picture stays narrow.
  const rows = [];
  for (let i = 0; i < inputs.length; i += 5)
    rows.push({ label: i === 0 ? 'inputs' : '', pictures: shown.slice(0, -1).slice(i, i + 5) });
  rows.push({ label: 'masked target', pictures: [maskedPicture(whole, visible, size / patchSize)] });
  rows.push({ label: 'reconstruction', pictures: [rebuilt] });
  rows.push({ label: 'target', pictures: [whole] });
  const { png, width, height } = await drawGrid([{ rows }]);
  await writeFileAtomically(out, (file) => file.writeFile(png));

  const [loss = NaN] = result.losses;
  const patches = decoder.patches;
  if (options.json === true) {
    const { info } = decoder;
    const failed = bad.map(({ code, message, photo = 0 }) => ({ photo: given[photo], code, message }));
    printJson({ out, width, height, inputs, failed, target, maskRatio: ratio, seed, patches, visible: Array.from(visible), loss, info }); // prettier-ignore
  } else {
    console.log(
      `${out}: ${width} × ${height} pixels; ${visible.length} of ${patches} patches were visible, ` +
        `the mean error of a normalised pixel is ${loss.toFixed(4)}`,
    );
  }
  return bad.length > 0 ? exitCodes.failed : exitCodes.ok;
}

/** Adds `omni-id reconstruct`. */
export function addReconstructCommand(program: Command): void {
  addComputeOptions(
    program
      .command('reconstruct')
      .description('rebuild a photo from a few of its patches and other photos of the person')
      .requiredOption('--weights <dir>', 'what training has written: an encoder with its decoder in mtd/')
      .requiredOption(
        '--inputs <paths...>',
        'photos of the person, or folders of them; the target is left out of a folder',
      )
      .requiredOption('--target <photo>', 'photo to rebuild')
      .option(
        '--mask-ratio <share>',
        'share of the target that is masked (default: that of training)',
        numberOf(maskRatio),
      )
      .option('--seed <n>', 'seed of the mask', numberOf(seed), 0)
      .requiredOption('--out <file>', 'picture to write: FILE.png'),
  )
    .addOption(jsonOption())
    .action(async (options: ReconstructCommand) => {
      process.exitCode = await reconstruct(options);
    });
}
