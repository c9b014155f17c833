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
  { entry: { cli: 'src/cli/main.ts' }, format: ['esm'], target: 'node20', sourcemap: true, clean: false },
]);
