import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

// The suite runs as source (benchmarks/*.ts through tsx) and as built (dist/*.js, the installed package): in both, this file lies one folder
// below the package's root.
const here = fileURLToPath(import.meta.url);
const isSource = here.endsWith('.ts');

export const packageRoot = join(dirname(here), '..');

/** Arguments for Node that run one of the suite's own programs: `child`. */
export function programArguments(name: string): string[] {
  return isSource
    ? ['--import', import.meta.resolve('tsx'), join(dirname(here), `${name}.ts`)]
    : [join(dirname(here), `bench-${name}.js`)];
}

/**
 * The package as a user's program imports it: the built one where it is there, else the source through tsx, which makes a start slower.
 * @returns arguments for Node, and the module to import
 */
export function packageEntry(): { arguments: string[]; module: string; built: boolean } {
  const built = join(packageRoot, 'dist/index.js');
  if (existsSync(built)) return { arguments: [], module: pathToFileURL(built).href, built: true };
  const source = pathToFileURL(join(packageRoot, 'src/index.ts')).href;
  return { arguments: ['--import', import.meta.resolve('tsx')], module: source, built: false };
}
