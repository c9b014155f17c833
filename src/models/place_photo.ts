import { native, type NativeTensor } from '../bindings.js';
import { checkPhoto, describePhoto } from '../data/photo.js';
import type { LoadedPhoto, PlacedPhoto } from '../data/photo_loader.js';
import { ImageError } from '../errors.js';
import type { Session } from '../graph/session.js';
import type { ImageProcessorConfig } from '../io/image_processor.js';

/**
 * Brings a loaded photo's pixels into a tensor, f32 [3, size, size] from `element` on: preprocessed on the device's side queue, or copied.
 * @param photo where it stood in the call, for messages
 * @throws {ImageError} `ERR_PIXELS_INVALID`; what loading it failed with; the signal's reason when aborted
 */
export async function placePhoto(
  session: Session,
  { shortestEdge, cropSize, rescaleFactor, mean, std }: ImageProcessorConfig,
  photo: PlacedPhoto,
  loaded: LoadedPhoto,
  tensor: NativeTensor,
  element: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  if ('error' in loaded) throw loaded.error;
  // Checked once more, because time has passed since the call: a buffer that was transferred meanwhile is empty.
  checkPhoto('pixels' in loaded ? loaded.pixels : loaded.image, photo, cropSize);
  if ('pixels' in loaded) {
    const { pixels } = loaded;
    // Memory that other threads write to is copied before it is checked.
    const bad = tensor.write(pixels.buffer instanceof ArrayBuffer ? pixels : pixels.slice(), element);
    if (bad < 0) return;
    throw new ImageError(
      'ERR_PIXELS_INVALID',
      `${describePhoto(pixels, photo)}: pixel value ${bad} is ${pixels[bad]}, expected a finite number`,
      photo,
    );
  }
  // The engine reads the pixels from its own threads while JavaScript goes on: what the caller owns is
  // copied (not with slice(), which for a Buffer is a view).
  const image = loaded.owned ? loaded.image : { ...loaded.image, data: new Uint8Array(loaded.image.data) };
  const settings = { resize: shortestEdge, crop: cropSize, rescale: rescaleFactor, mean, std };
  await session.cancellable(signal, (cancellation) =>
    native().preprocess(session.device, image, settings, tensor, element, cancellation),
  );
}
