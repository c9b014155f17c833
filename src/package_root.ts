import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/**
 * The package's own folder: one above this file, as source (src/) and as built (dist/).
 * @internal
 */
export const packageRoot = join(dirname(fileURLToPath(import.meta.url)), '..');
