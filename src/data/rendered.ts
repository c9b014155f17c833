import { native } from '../bindings.js';
import { typed } from '../graph/session.js';
import { field, seed, whole } from '../kinds.js';
import { checked, options, signal } from '../options.js';
import type { TrainingPhoto } from './dataset.js';
import { faceRenderer } from './face_renderer.js';
import { viewDefaults, viewFields, type HeadPose, type ViewOptions } from './view_options.js';

/**
 * People and views rendered from a face model, with exact ground truth: training data that needs no download.
 *
 * A person is a seed. Shape (60 principal components of face scans) and colouring (skin, lips, brows, beard, hair, eyes, moles, freckles) are drawn
 * from streams of their own, so that people of equal colouring and another shape can be made, and the other way round. A view (pose, expression,
 * gaze, light, background, clothes, glasses, crop, noise) is a seed and a number. The same request gives the same bytes on every machine.
 */

/**
 * What is drawn from a request. It must be raised whenever the pinned hashes in `test/rendered.test.ts` and `native/test/rendered_test.cpp` change: pictures that
 * are kept on disk are told apart by it.
 */
export const rendererVersion = 1;

/**
 * By convention people from this seed on are held out: never trained on, only evaluated.
 * Source: the data set's convention; {@link RenderedDataset} makes no difference between them.
 */
export const heldOutSeed = 900_000;

export interface RenderOptions extends ViewOptions {
  /** Seed of the person: a whole number from 0 to 2^53 − 1. */
  readonly identity: number;
  /** Number of the view. */
  readonly view: number;
  /** Width and height in pixels: 1 to 2048. */
  readonly size: number;
  /** Seed of the shape. Default: `identity`. */
  readonly shape?: number | undefined;
  /** Seed of the colouring. Default: `identity`. */
  readonly colouring?: number | undefined;
  /** Seed of the view, so that two people can be seen in the very same one. Default: `identity`. */
  readonly viewSeed?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A photo and all that is known about it. */
export interface RenderedPhoto extends TrainingPhoto {
  readonly size: number;
  /** [size, size]: 255 where a pixel is mostly face (skin from chin to hairline without ears and glasses, eyes, mouth), else 0. */
  readonly mask: Uint8Array;
  readonly pose: HeadPose;
  /** [68, 2]: x and y of the Multi-PIE 68 landmarks in pixels; (0, 0) is the image's upper left corner. Also those that are hidden or outside. */
  readonly landmarks: Float32Array;
  /** [60]: normal numbers, one for each principal component. */
  readonly identityCoefficients: Float32Array;
  /** [53]: weights of ARKit's blendshapes, in the order of {@link expressionNames}. */
  readonly expressionCoefficients: Float32Array;
}

/** Side of the largest picture, in pixels: the renderer's own bound. */
export const mostRenderedPixels = 2048;
/** People of one data set. They are listed and shuffled in memory, at some bytes each; ten times more than there are seeds below {@link heldOutSeed}. */
export const mostPeople = 10_000_000;
/** Photos of one person, which are shuffled in memory too. */
export const mostViews = 100_000;

const seedField = field(seed);
const renderSchema = options({
  ...viewFields,
  identity: seedField,
  view: seedField,
  size: field(whole(1, mostRenderedPixels)),
  shape: seedField.optional(),
  colouring: seedField.optional(),
  viewSeed: seedField.optional(),
  signal,
});

/**
 * Renders one photo of one person, on threads of the engine's own.
 *
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`; {FileError} `ERR_FILE` when the face model cannot be read; the signal's reason when it is
 *   aborted before the photo was begun
 */
export async function renderFace(request: RenderOptions): Promise<RenderedPhoto> {
  const { identity, view, size, shape, colouring, viewSeed, signal, ...chosen } = checked('renderFace', renderSchema, request); // prettier-ignore
  signal?.throwIfAborted();
  const renderer = await faceRenderer();
  signal?.throwIfAborted();
  const cancellation = new (native().Cancellation)();
  const cancel = (): void => {
    cancellation.cancel();
  };
  signal?.addEventListener('abort', cancel, { once: true });
  try {
    const image = await renderer.render(
      {
        shapeSeed: shape ?? identity,
        colouringSeed: colouring ?? identity,
        viewSeed: viewSeed ?? identity,
        viewNumber: view,
        size,
        crop: chosen.crop ?? viewDefaults.crop,
        pose: chosen.pose,
        poseSpread: chosen.poseSpread ?? viewDefaults.poseSpread,
        neutralExpression: (chosen.expression ?? viewDefaults.expression) === 'neutral',
        jitter: chosen.jitter ?? viewDefaults.jitter,
        glasses: chosen.glasses,
      },
      cancellation,
    );
    return { size, ...image };
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ERR_ABORTED') signal?.throwIfAborted();
    throw typed(error);
  } finally {
    signal?.removeEventListener('abort', cancel);
  }
}

/** Names of the expression coefficients: ARKit's blendshapes, `_L` and `_R` for the person's left and right. */
export const expressionNames: readonly string[] = [
  ...both('browDown', 'browInnerUp', 'browOuterUp', 'cheekPuff', 'cheekSquint', 'eyeBlink', 'eyeLookDown'),
  ...both('eyeLookIn', 'eyeLookOut', 'eyeLookUp', 'eyeSquint', 'eyeWide'),
  ...['jawForward', 'jawLeft', 'jawOpen', 'jawRight', 'mouthClose'],
  ...both('mouthDimple', 'mouthFrown'),
  ...['mouthFunnel', 'mouthLeft'],
  ...both('mouthLowerDown', 'mouthPress'),
  ...['mouthPucker', 'mouthRight', 'mouthRollLower', 'mouthRollUpper', 'mouthShrugLower', 'mouthShrugUpper'],
  ...both('mouthSmile', 'mouthStretch', 'mouthUpperUp', 'noseSneer'),
];

function both(...names: string[]): string[] {
  return names.flatMap((name) => [`${name}_L`, `${name}_R`]);
}
