// A loop of steps that ends as training does when it is told to stop.
import { setTimeout } from 'node:timers/promises';
import { exitCodeOf, StopSignals } from '../../src/train/signals.js';

using stop = new StopSignals((signal) => {
  console.log(`stopping ${signal}`);
});
console.log('ready');
while (stop.received === undefined) await setTimeout(5);
// "slow" stays in its step until a second signal comes.
if (process.argv[2] === 'slow') await setTimeout(60_000);
console.log('saved');
process.exitCode = exitCodeOf(stop.received);
