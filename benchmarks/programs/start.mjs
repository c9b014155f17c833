// From the start of the process to the tokens of the photos, as often as it is told; and the memory that took.
import { load, peakResidentBytes, photos, report, seconds, setup } from './setup.mjs';

const encoder = await load();
await encoder.embed([photos]);
const first = seconds();
for (let i = 1; i < setup.times; i++) await encoder.embed([photos]);
report({ seconds: first, peakBytes: peakResidentBytes() });
