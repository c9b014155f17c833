import { renderFace } from '../data/rendered.js';
import type { ViewOptions } from '../data/view_options.js';
import type { OmniIdEncoder } from '../models/omni_id_encoder.js';
import type { HeldOutPerson } from './held_out.js';
import { peoplesTokens, type PeoplesTokens } from './peoples_tokens.js';

/** What two rendered people can differ in while all else is equal. */
export type Swapped = 'shape' | 'colouring';

/**
 * ℓ of rendered people whose shape or colouring is another's: that of the next in the list, as in `neighbours`. They are seen in the very views of the
 * right person's photos, so that nothing else tells the two apart.
 * @param rendered.inputs photos that ℓ is made from
 */
export function swappedTokens(
  encoder: OmniIdEncoder,
  people: readonly HeldOutPerson[],
  what: Swapped,
  rendered: { firstSeed: number; view: ViewOptions; inputs: number },
  options: { signal?: AbortSignal | undefined; onPeople?: (more: number) => void },
): Promise<PeoplesTokens> {
  const { firstSeed, view: chosen, inputs } = rendered;
  const size = encoder.config.vision.imageSize;
  const photosOf = async (i: number): Promise<Uint8Array[]> => {
    options.signal?.throwIfAborted();
    const [person, other] = [people[i], people[(i + 1) % people.length]];
    if (!person || !other) throw new Error(`there is no person ${i}`);
    const who = { identity: firstSeed + person.identity, [what]: firstSeed + other.identity };
    const views = person.inputPhotos.slice(0, inputs);
    const photos = await Promise.all(views.map((view) => renderFace({ ...chosen, ...who, view, size })));
    return photos.map(({ pixels }) => pixels);
  };
  return peoplesTokens(encoder, people.length, photosOf, options);
}
