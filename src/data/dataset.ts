/** A photo as training needs it: decoded and square. */
export interface TrainingPhoto {
  /** RGB, [size, size, 3]. */
  readonly pixels: Uint8Array;
  /** [size, size]: not 0 inside the face; without one every pixel counts. */
  readonly mask: Uint8Array | undefined;
}

/** Photos of people, by identity. */
export interface IdentityDataset {
  readonly name: string;
  readonly identities: number;
  /** Photos of one identity. */
  photos(identity: number): number;
  identityName(identity: number): string;
  read(identity: number, photo: number, size: number): Promise<TrainingPhoto>;
  close(): Promise<void>;
}
