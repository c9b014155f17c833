// Pairs of rendered people: what the encoder is shown of a person with another's shape or colouring, pixel by pixel.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { normalised } from '../src/data/normalise.js';
import type { HeldOutPerson } from '../src/eval/held_out.js';
import { swappedTokens, type Swapped } from '../src/eval/pairs.js';
import { presets, renderFace, type OmniIdEncoder } from '../src/index.js';

const size = 32;
const config = { ...presets.nano, vision: { ...presets.nano.vision, imageSize: size }, tokens: 1, width: 2 };

type Photos = Parameters<OmniIdEncoder['embed']>[0];

/** An encoder that keeps what it is given; the tokens of a person tell how many came before. */
function recorder(): { encoder: OmniIdEncoder; seen: Photos[number][] } {
  const seen: Photos[number][] = [];
  const encoder: Pick<OmniIdEncoder, 'config' | 'embed'> = {
    config,
    embed: (identities) => {
      const data = Float32Array.from({ length: 2 * identities.length }, (_, i) => 2 * seen.length + i);
      seen.push(...identities);
      const rows = { identities: [...identities.keys()], photos: identities.map(({ length }) => length) };
      return Promise.resolve({ data, shape: [identities.length, 1, 2], ...rows });
    },
  };
  return { encoder: encoder as OmniIdEncoder, seen };
}

const people = [
  [7, [4, 1, 3]],
  [2, [0, 5, 2]],
  [9, [3, 2, 8]],
].map(([identity, inputPhotos]) => ({ identity, slot: identity, name: '', inputPhotos, inputs: [], targets: [] }) as HeldOutPerson); // prettier-ignore
const firstSeed = 900_000;
const view = { poseSpread: 0.5, expression: 'neutral', crop: 1.3, jitter: false } as const;

for (const what of ['shape', 'colouring'] as const satisfies readonly Swapped[]) {
  test(`everybody with the ${what} of the next, all else and the chosen views their own`, async () => {
    const { encoder, seen } = recorder();
    const told: number[] = [];
    const onPeople = (more: number): void => {
      told.push(more);
    };
    const { data, shape } = await swappedTokens(encoder, people, what, { firstSeed, view, inputs: 2 }, { onPeople }); // prettier-ignore
    assert.equal([shape, [...data], told], [[3, 1, 2], [0, 1, 2, 3, 4, 5], [3]]);
    assert.is(seen.length, people.length);
    for (const [person, own, next, views] of [
      [0, 900_007, 900_002, [4, 1]],
      [1, 900_002, 900_009, [0, 5]],
      [2, 900_009, 900_007, [3, 2]],
    ] as const) {
      assert.is(seen[person]?.length, views.length);
      for (const [i, number] of views.entries()) {
        const who = { shape: own, colouring: own, viewSeed: own, [what]: next };
        const { pixels } = await renderFace({ ...view, ...who, identity: own, view: number, size });
        assert.equal(seen[person]?.[i], normalised(pixels, config.imageProcessor), `photo ${i} of person ${person}`); // prettier-ignore
      }
    }
  });
}

test.run();
