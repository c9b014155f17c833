import { devices, isDeviceName, type DeviceName } from '../src/graph/devices.js';
import { UsageError } from './usage_error.js';

/** A CUDA device that ours is measured on, beside the CPU. */
export interface CudaPlace {
  readonly device: DeviceName;
  /** How ours on it is called in the results. */
  readonly label: string;
  /** Kernels run by the emulation have no speed: only what they compute counts. */
  readonly emulated: boolean;
}

/** Where ours is measured besides the CPU, and the line that says so, or why nowhere. */
export interface CudaPlaces {
  readonly places: readonly CudaPlace[];
  readonly detail: string;
}

/**
 * What `--device` asks for; the first CUDA device where it asks for nothing, but never an emulated one.
 * @throws {UsageError} when a device is asked for that is not there
 */
export function findCuda(asked: readonly string[]): CudaPlaces {
  if (asked.includes('none')) {
    if (asked.length > 1)
      throw new UsageError('--device none leaves CUDA out: it goes with no other --device');
    return { places: [], detail: 'left out by --device' };
  }
  const { cuda, emulated, unavailable } = devices();
  const why = unavailable[0]?.reason ?? 'no such device';
  const names = new Set(asked.map((name) => (name === 'cuda:0' ? 'cuda' : name)));
  for (const name of names) {
    if (!isDeviceName(name) || !name.startsWith('cuda'))
      throw new UsageError(
        `unknown device ${JSON.stringify(name)}: expected cuda, one of several like cuda:1, or none`,
      );
    if (!cuda.some(({ device }) => device === name))
      throw new UsageError(
        `device ${name} is not available: ${unavailable.find(({ device }) => device === name)?.reason ?? why}`,
      );
  }
  const chosen =
    asked.length > 0 ? cuda.filter(({ device }) => names.has(device)) : emulated ? [] : cuda.slice(0, 1);
  if (chosen.length === 0)
    return { places: [], detail: `not measured: ${emulated ? 'an emulation only' : why}` };
  return {
    places: chosen.map(({ device }) => ({
      device,
      label: `omni-id on ${device}${emulated ? ', emulated' : ''}`,
      emulated,
    })),
    detail: chosen
      .map(({ device, name, computeCapability }) => {
        return `${device} is ${emulated ? 'an ' : ''}${name}${emulated ? '' : `, compute capability ${computeCapability}`}`;
      })
      .join('; '),
  };
}
