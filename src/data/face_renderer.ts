import { join } from 'node:path';
import { native, type NativeFaceRenderer } from '../bindings.js';
import { translated } from '../graph/session.js';
import { readSafetensorsHeader } from '../io/safetensors.js';
import { packageRoot } from '../package_root.js';

/** The packed ICT face model (MIT licence, assets/LICENSE-ICT-FaceKit), made by scripts/pack-face-model.mjs. */
export const faceModelPath = join(packageRoot, 'assets/ict_face.safetensors');

/**
 * Opens a packed face model for drawing.
 * @param threads threads to draw with; default: the processors that this process may use
 * @throws {FileError} `ERR_FILE`; {FormatError} `ERR_FORMAT`; {WeightsError} `ERR_WEIGHTS` when it is no packed face model
 */
export async function openFaceRenderer(path: string, threads?: number): Promise<NativeFaceRenderer> {
  const { tensors } = await readSafetensorsHeader(path);
  const places = Object.fromEntries(
    Array.from(tensors, ([name, { byteOffset, byteLength }]) => [
      name,
      { offset: byteOffset, bytes: byteLength },
    ]),
  );
  return translated(() => new (native().FaceRenderer)(new (native().MappedFile)(path), places, threads));
}

let shared: Promise<NativeFaceRenderer> | undefined;

/** The renderer that everybody uses: opened with the first image that is asked for. */
export function faceRenderer(): Promise<NativeFaceRenderer> {
  if (shared === undefined) {
    const opening = openFaceRenderer(faceModelPath);
    shared = opening;
    // What failed may work later: it is not remembered.
    opening.catch(() => {
      if (shared === opening) shared = undefined;
    });
  }
  return shared;
}
