import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { packageRoot } from '../paths.js';

// The peers' modules, as far as the suite uses them. They are installed apart (benchmarks/peers/package.json, or the user's own project): the suite must run,
// and its types must check, without them.

export interface Onnx {
  readonly ModelProto: { create(model: object): object; encode(model: object): { finish(): Uint8Array } };
}

export interface OnnxruntimeNode {
  readonly Tensor: new (
    type: 'float32',
    data: Float32Array,
    dims: readonly number[],
  ) => { readonly data: Float32Array };
  readonly InferenceSession: {
    create(
      path: string,
      options: { intraOpNumThreads: number; graphOptimizationLevel: 'all' },
    ): Promise<{
      run(feeds: Record<string, unknown>): Promise<Record<string, { readonly data: Float32Array }>>;
    }>;
  };
}

export interface TransformersJs {
  readonly env: { allowRemoteModels: boolean; localModelPath: string };
  readonly Tensor: new (type: 'float32', data: Float32Array, dims: readonly number[]) => unknown;
  readonly AutoModel: {
    from_pretrained(
      name: string,
      options: object,
    ): Promise<(inputs: Record<string, unknown>) => Promise<Record<string, { readonly data: Float32Array }>>>;
  };
}

/** Draws specifications of its own. */
export interface Vega {
  parse(spec: object): object;
  readonly View: new (runtime: object, options: { renderer: 'none' }) => { toSVG(): Promise<string> };
}

/** Compiles short specifications to Vega's. */
export interface VegaLite {
  compile(spec: object): { spec: object };
}

/** Where the peers' package.json lies: below the suite, so that nothing which they bring can stand in for the suite's own dependencies. */
export const peersFolder = join(packageRoot, 'benchmarks/peers');

/** Folders from which peers are looked for: the user's project first. */
const places = (): string[] => [process.cwd(), peersFolder];

/** Where a module is installed, and its version; undefined when it is not. */
export function findModule(name: string): { folder: string; version: string } | undefined {
  for (const place of places()) {
    for (let folder = place; ; folder = dirname(folder)) {
      const path = join(folder, 'node_modules', name, 'package.json');
      if (existsSync(path)) {
        const { version } = JSON.parse(readFileSync(path, 'utf8')) as { version: string };
        return { folder, version };
      }
      if (dirname(folder) === folder) break;
    }
  }
  return undefined;
}

/** Imports a module that is installed in `folder`. */
export async function importFrom(folder: string, name: string): Promise<Record<string, unknown>> {
  const path = createRequire(join(folder, 'package.json')).resolve(name);
  const module = (await import(pathToFileURL(path).href)) as Record<string, unknown>;
  // What a CommonJS module exports is its default; names are found only as far as Node's scanner sees them.
  return { ...(module['default'] as Record<string, unknown> | undefined), ...module };
}
