// The moments of a process's life, seconds since it was started.
import { importedSeconds, load, photos, report, seconds, setup } from './setup.mjs';

const encoder = await load(setup.packedCache);
const loaded = seconds();
await encoder.embed([photos]);
const first = seconds();
await encoder.embed([photos]);
const second = seconds();
await encoder[Symbol.asyncDispose]();
report({ imported: importedSeconds, loaded, first, second, disposed: seconds() });
