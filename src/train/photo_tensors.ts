import { native, type NativeTensor } from '../bindings.js';
import type { Session } from '../graph/session.js';
import type { ImageProcessorConfig } from '../io/image_processor.js';

/**
 * Square RGB photos, 8 bits, to normalised pixels f32 [photos, 3, size, size], on the device's side queue. Photos of another size are resized
 * as for the encoder.
 * @param from side of the photos, in pixels
 */
export async function writePhotos(
  session: Session,
  photos: Uint8Array,
  from: number,
  to: { readonly tensor: NativeTensor; readonly size: number },
  { rescaleFactor, mean, std }: ImageProcessorConfig,
): Promise<void> {
  const bytes = from * from * 3;
  const settings = { resize: to.size, crop: to.size, rescale: rescaleFactor, mean, std };
  await session.cancellable(undefined, async (cancellation) => {
    const all = Array.from({ length: photos.length / bytes }, (_, i) =>
      native().preprocess(
        session.device,
        { data: photos.subarray(i * bytes, (i + 1) * bytes), width: from, height: from },
        settings,
        to.tensor,
        i * 3 * to.size * to.size,
        cancellation,
      ),
    );
    // Nothing may still be written when this ends.
    const results = await Promise.allSettled(all);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  });
}
