import type { Suite } from '../context.js';
import { encoderSuite } from './encoder.js';
import { kernelSuite } from './kernel.js';
import { lifecycleSuite } from './lifecycle.js';
import { blockSuite, modelSuite } from './model.js';
import { nodeSuite } from './node.js';
import { scalingSuite } from './scaling.js';
import { trainingSuite } from './training.js';

/** All suites, in the order in which they run: from the smallest thing to the largest. */
export const suites: readonly Suite[] = [
  kernelSuite,
  blockSuite,
  modelSuite,
  encoderSuite,
  lifecycleSuite,
  nodeSuite,
  scalingSuite,
  trainingSuite,
];
