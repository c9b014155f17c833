import { defineConfig } from 'tsup';

export default defineConfig([
  {
    entry: { index: 'src/index.ts' },
    format: ['esm', 'cjs'],
    target: 'node20',
    dts: true,
    // import.meta.url in the CommonJS build too: the addon is found relative to this file.
    shims: true,
    sourcemap: true,
    clean: true,
  },
  {
    // The benchmark suite goes into chunks of its own, which `omni-id bench` loads; its contestants are programs of their own.
    entry: { cli: 'src/cli/main.ts', 'bench-child': 'benchmarks/child.ts' },
    format: ['esm'],
    target: 'node20',
    sourcemap: true,
    clean: false,
  },
]);
