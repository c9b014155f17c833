import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CudaPlace } from './cuda.js';
import type { Size } from './fixtures.js';
import type { Peer } from './peers/peers.js';
import { rowOf, type Measured, type Ratio, type Results, type Row } from './results.js';

export interface Settings {
  readonly quick: boolean;
  readonly threads: number;
  /** Samples of every row; `quick` takes two. */
  readonly rounds: number;
  readonly preset: Size | undefined;
  readonly only: readonly string[];
  /** Where ours is measured besides the CPU. */
  readonly cuda: readonly CudaPlace[];
}

/** What a suite works with: the settings, the peers that were found, and the results that it adds to. */
export class Context {
  /** For outputs and exported models: gone with the run. */
  readonly folder = mkdtempSync(join(tmpdir(), 'omni-id-bench-run-'));

  constructor(
    readonly settings: Settings,
    readonly results: Results,
    readonly peers: readonly Peer[],
    readonly log: (message: string) => void,
  ) {}

  /** Whether `--only` leaves this name in. */
  wants(name: string): boolean {
    return this.settings.only.length === 0 || this.settings.only.includes(name);
  }

  /** The size that a suite measures at: what `--preset` says, else the small one in a quick run, else its own. */
  size(usual: Size): Size {
    return this.settings.preset ?? (this.settings.quick ? 'tiny' : usual);
  }

  rounds(usual: number): number {
    return this.settings.quick ? Math.min(2, this.settings.rounds) : Math.min(usual, this.settings.rounds);
  }

  peer(name: string): Peer | undefined {
    return this.peers.find((peer) => peer.name === name && peer.found);
  }

  add(measured: Measured): Row {
    const row = rowOf(measured);
    this.results.rows.push(row);
    return row;
  }

  ratio(ratio: Ratio): void {
    this.results.ratios.push(ratio);
    this.log(`  ${ratio.name} ${ratio.value}`);
  }

  dispose(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** A part of the benchmark. */
export interface Suite {
  readonly name: string;
  readonly what: string;
  /** What `--only` can pick. */
  readonly names: readonly string[];
  run(context: Context): Promise<void>;
}
