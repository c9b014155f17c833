/** Targets that are rebuilt at once: as many of each of several identities that follow each other. */
export interface TargetRun {
  readonly firstIdentity: number;
  readonly identities: number;
  /** Of each identity. */
  readonly targets: number;
  /** Index of the first target in the call. */
  readonly firstTarget: number;
}

/**
 * Cuts a call into runs of at most `most` targets: an identity with more is several runs, and identities with equally many share one.
 * @param counts targets of each identity
 */
export function* runsOf(counts: readonly number[], most: number): Generator<TargetRun> {
  let run: TargetRun | undefined;
  let firstTarget = 0;
  for (const [identity, count] of counts.entries()) {
    for (let left = count; left > 0; left -= most) {
      const targets = Math.min(left, most);
      const total = run ? (run.identities + 1) * run.targets : 0;
      const next = run ? run.firstIdentity + run.identities === identity : false;
      if (run?.targets === targets && next && total <= most) {
        run = { ...run, identities: run.identities + 1 };
      } else {
        if (run) yield run;
        run = { firstIdentity: identity, identities: 1, targets, firstTarget };
      }
      firstTarget += targets;
    }
  }
  if (run) yield run;
}
