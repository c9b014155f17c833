/** A photo as training needs it: decoded and square. Whoever gets one must not change it: it may be kept and given out again. */
export interface TrainingPhoto {
  /** RGB, [size, size, 3]. */
  readonly pixels: Uint8Array;
  /** [size, size]: not 0 inside the face; without one every pixel counts. */
  readonly mask: Uint8Array | undefined;
}

/** Photos of identities, for training. */
export interface IdentityDataset {
  /** Where it is from, for messages. */
  readonly name: string;
  readonly identities: number;
  /** Photos of one identity: at least 1. */
  photos(identity: number): number;
  identityName(identity: number): string;
  /**
   * One photo, the centre of it, with its shorter edge scaled to `size` pixels.
   * @throws {ImageError} `ERR_IMAGE_NOT_FOUND`, `ERR_IMAGE_UNREADABLE`, `ERR_IMAGE_TOO_LARGE`, or `ERR_PIXELS_INVALID` for a mask that
   * does not have the photo's size; not the photo's fault are {FileError} `ERR_FILE` when the system fails to read, and {DisposedError}
   * `ERR_DISPOSED` when the data set's files have been closed
   */
  read(identity: number, photo: number, size: number): Promise<TrainingPhoto>;
  close(): Promise<void>;
}

/** An image as it lies on disk. */
export interface EncodedImage {
  /** Where it is from, for messages. */
  readonly name: string;
  /** What its name ends in, lower case without the dot: `jpg`, `png`, …; `npy` holds decoded pixels. */
  readonly extension: string;
  readonly bytes: Uint8Array;
}

/** A photo as it lies on disk. */
export interface EncodedPhoto {
  readonly image: EncodedImage;
  readonly mask: EncodedImage | undefined;
  /** What else is known of it: head pose, landmarks, … */
  readonly labels: Readonly<Record<string, unknown>>;
}

/** A data set of files, which can be packed as they are. */
export interface EncodedDataset extends IdentityDataset {
  hasMask(identity: number, photo: number): boolean;
  /** @throws {ImageError} `ERR_IMAGE_NOT_FOUND` or `ERR_IMAGE_UNREADABLE`; {FileError} `ERR_FILE`; {DisposedError} `ERR_DISPOSED` */
  encoded(identity: number, photo: number): Promise<EncodedPhoto>;
}
