import { devices, type DeviceName } from '../../src/graph/devices.js';

/** Devices that this machine does not have: the first CUDA device that is one too many, and the one after it. */
export function absentDevices(): DeviceName[] {
  const { length } = devices().cuda;
  return [length === 0 ? 'cuda' : `cuda:${length}`, `cuda:${length + 1}`];
}
