import { z } from 'zod';
import { describe } from '../options.js';

/** Degrees. Yaw turns the face to the image's right, pitch raises it, roll tilts it clockwise. */
export interface HeadPose {
  readonly yaw: number;
  readonly pitch: number;
  readonly roll: number;
}

/** What of a view can be chosen instead of drawn. */
export interface ViewOptions {
  /** Side of the image over that of a tight crop around the face (18.5 cm at the face): 0.25 to 4. Default: 1. */
  readonly crop?: number | undefined;
  /** Default: drawn; normal with 28°, 12° and 6°, clipped at 65°, 28° and 15°. Each from −180 to 180. */
  readonly pose?: HeadPose | undefined;
  /** Factor of the drawn angles, 0 (every face is turned to the camera) to 2. Default: 1. */
  readonly poseSpread?: number | undefined;
  /** Default: `'random'`. */
  readonly expression?: 'random' | 'neutral' | undefined;
  /** Whether the crop is moved and scaled a little. Default: true. */
  readonly jitter?: boolean | undefined;
  /** Default: drawn, 14 % wear them. */
  readonly glasses?: boolean | undefined;
}

/** What is not chosen and not drawn either. */
export const viewDefaults = { crop: 1, poseSpread: 1, expression: 'random', jitter: true } as const;

const within = (least: number, most: number): z.ZodType<number> =>
  z.any().refine((value) => typeof value === 'number' && value >= least && value <= most, {
    error: ({ input }) => `is ${describe(input)}, expected a number from ${least} to ${most}`,
  });
const flag = z.any().refine((value) => typeof value === 'boolean', {
  error: ({ input }) => `is ${describe(input)}, expected true or false`,
}) as z.ZodType<boolean>;
const angle = within(-180, 180);

/** Fields of {@link ViewOptions}, with their bounds. */
export const viewFields = {
  crop: within(0.25, 4).optional(),
  pose: z
    .strictObject(
      { yaw: angle, pitch: angle, roll: angle },
      { error: ({ input }) => `is ${describe(input)}, expected { yaw, pitch, roll }` },
    )
    .optional(),
  poseSpread: within(0, 2).optional(),
  expression: (
    z.any().refine((value) => value === 'random' || value === 'neutral', {
      error: ({ input }) => `is ${describe(input)}, expected "random" or "neutral"`,
    }) as z.ZodType<'random' | 'neutral'>
  ).optional(),
  jitter: flag.optional(),
  glasses: flag.optional(),
};
