/** Share of the smoothed loss that a step keeps. */
const kept = 0.98;

/** What some steps took. */
export interface MeteredSteps {
  readonly stepsPerSecond: number;
  /** Share of the time that was spent waiting for data. */
  readonly dataWait: number;
}

/** Measures the steps of a process: their time, what of it was spent waiting for data, and a smoothed loss. */
export class StepMeter {
  #seconds = 0;
  #waited = 0;
  #last = { steps: 0, seconds: 0, waited: 0 };
  #steps = 0;
  #loss = NaN;
  #smoothed = NaN;

  /** @param loss NaN of a step that was skipped */
  add(step: { readonly seconds: number; readonly waited: number; readonly loss: number }): void {
    this.#steps++;
    this.#seconds += step.seconds;
    this.#waited += step.waited;
    if (Number.isNaN(step.loss)) return;
    this.#loss = step.loss;
    this.#smoothed = Number.isNaN(this.#smoothed)
      ? step.loss
      : kept * this.#smoothed + (1 - kept) * step.loss;
  }

  /** Of the last step that was not skipped; NaN before there was one. */
  get loss(): number {
    return this.#loss;
  }

  get smoothedLoss(): number {
    return this.#smoothed;
  }

  /** Of all steps. */
  get dataWait(): number {
    return this.#seconds > 0 ? this.#waited / this.#seconds : 0;
  }

  /** The steps since the last {@link look}. */
  get sinceLook(): MeteredSteps {
    const { steps, seconds, waited } = this.#last;
    const spent = this.#seconds - seconds;
    return { stepsPerSecond: (this.#steps - steps) / spent, dataWait: (this.#waited - waited) / spent };
  }

  /** The steps since the last call. */
  look(): MeteredSteps {
    const metered = this.sinceLook;
    this.#last = { steps: this.#steps, seconds: this.#seconds, waited: this.#waited };
    return metered;
  }
}
