import { availableParallelism, freemem, totalmem } from 'node:os';
import { join } from 'node:path';
import { native } from '../bindings.js';
import { ArgumentError, FileError } from '../errors.js';
import { devices, openDevice } from '../graph/devices.js';
import { exists } from '../io/files.js';
import { checkPackDtype, convertModel, packModel } from '../models/convert.js';
import { OmniIdEncoder } from '../models/omni_id_encoder.js';
import { presets, type PresetName } from '../models/presets.js';
import type { SaveDType } from '../models/save.js';
import { exitCodes, interruptSignal, printJson, progressBar } from './output.js';
import { counted } from '../text.js';

/** A model is not replaced by accident: it may have taken days to train. */
export async function checkFree(folder: string, force: boolean): Promise<void> {
  for (const name of ['config.json', 'model.safetensors']) {
    if (!force && (await exists(join(folder, name))))
      throw new FileError(`${folder} already holds ${name}: --force replaces it`);
  }
}

/** `omni-id init`: a new, untrained encoder as a folder. */
export async function init(
  preset: string,
  options: { out: string; seed: number; clip?: string; dtype: SaveDType; force?: boolean; json?: boolean },
): Promise<number> {
  if (!Object.hasOwn(presets, preset)) {
    throw new ArgumentError(
      `unknown preset ${JSON.stringify(preset)}: expected one of ${Object.keys(presets).join(', ')}`,
    );
  }
  await checkFree(options.out, options.force === true);
  const signal = interruptSignal();
  await using encoder = await OmniIdEncoder.create(preset as PresetName, {
    seed: options.seed,
    vision: options.clip,
    signal,
  });
  const bar = progressBar('writing');
  await encoder
    .save(options.out, {
      dtype: options.dtype,
      signal,
      onProgress: ({ bytesDone, bytesTotal }) => {
        bar.update(Math.round(bytesDone / 1e6), Math.round(bytesTotal / 1e6));
      },
    })
    .finally(() => {
      bar.stop();
    });
  const { tokens, width } = encoder.config;
  if (options.json === true) printJson({ out: options.out, preset, seed: options.seed, tokens, width });
  else console.log(`${options.out}: a new "${preset}" encoder (${tokens} tokens of ${width}), untrained`);
  return exitCodes.ok;
}

/** `omni-id convert`: another element type, Hugging Face names, or a packed cache. */
export async function convert(
  folder: string,
  options: { out?: string; dtype?: SaveDType; pack?: boolean; force?: boolean; json?: boolean },
): Promise<number> {
  const signal = interruptSignal();
  if (options.out === undefined && options.pack !== true) {
    throw new ArgumentError(
      'nothing to do: expected --out DIR to write a converted model to, --pack to write a packed cache, or both',
    );
  }
  let kind: string | undefined;
  if (options.out !== undefined) {
    await checkFree(options.out, options.force === true);
    const bar = progressBar('writing');
    kind = await convertModel(folder, options.out, {
      dtype: options.dtype,
      signal,
      onProgress: ({ bytesDone, bytesTotal }) => {
        bar.update(Math.round(bytesDone / 1e6), Math.round(bytesTotal / 1e6));
      },
    }).finally(() => {
      bar.stop();
    });
  }
  const packed = options.pack === true ? (options.out ?? folder) : undefined;
  if (packed !== undefined) {
    const dtype = options.out === undefined ? (options.dtype ?? 'bf16') : 'bf16';
    checkPackDtype(dtype);
    await packModel(packed, dtype, signal);
  }
  if (options.json === true) printJson({ source: folder, out: options.out, kind, packed });
  else {
    if (options.out !== undefined) console.log(`${options.out}: ${kind} model`);
    if (packed !== undefined) console.log(`${packed}: packed cache written`);
  }
  return exitCodes.ok;
}

/** `omni-id info`: what this machine and this build have. */
export function info(options: { json?: boolean }): number {
  const binding = native();
  const device = openDevice({ device: 'cpu' }).describe();
  const { available, unavailable, cuda } = devices();
  const facts = {
    version: binding.version,
    node: process.versions.node,
    platform: `${process.platform}-${process.arch}`,
    processor: binding.processorName(),
    devices: available,
    unavailable,
    cuda,
    instructionSets: binding.instructionSets(),
    instructionSet: device.instructionSet,
    threads: device.threads,
    processors: availableParallelism(),
    memoryBytes: { total: totalmem(), free: freemem() },
  };
  if (options.json === true) {
    printJson(facts);
  } else {
    console.log(`omni-id ${facts.version}, Node ${facts.node}, ${facts.platform}`);
    console.log(`processor: ${facts.processor}, ${counted(facts.threads, 'thread')} of ${facts.processors}`);
    console.log(`devices: ${facts.devices.join(', ')}`);
    for (const { device: name, reason } of unavailable) console.log(`${name} is not available: ${reason}`);
    for (const one of cuda) {
      console.log(
        `${one.device}: ${one.name}, compute capability ${one.computeCapability}, ${(one.memoryBytes / 1e9).toFixed(1)} GB`,
      );
    }
    console.log(`instruction sets: ${facts.instructionSets.join(', ')} (in use: ${facts.instructionSet})`);
    console.log(
      `memory: ${(facts.memoryBytes.free / 1e9).toFixed(1)} of ${(facts.memoryBytes.total / 1e9).toFixed(1)} GB free`,
    );
  }
  return exitCodes.ok;
}
