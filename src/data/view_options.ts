import { field, flag, number, oneOf, strict } from '../kinds.js';

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

/** What can be chosen of the crop, and of the spread of poses. */
export const crop = number({ from: 0.25, to: 4 });
export const poseSpread = number({ from: 0, to: 2 });
const angle = field(number({ from: -180, to: 180 }));

/** Fields of {@link ViewOptions}, with their bounds. */
export const viewFields = {
  crop: field(crop).optional(),
  pose: strict({ yaw: angle, pitch: angle, roll: angle }).optional(),
  poseSpread: field(poseSpread).optional(),
  expression: field(oneOf('random', 'neutral')).optional(),
  jitter: field(flag).optional(),
  glasses: field(flag).optional(),
};
