import type { Suite } from '../context.js';
import { encoderSuite } from './encoder.js';

/** All suites, in the order in which they run. */
export const suites: readonly Suite[] = [encoderSuite];
