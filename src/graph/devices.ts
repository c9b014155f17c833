import { native, type NativeDevice } from '../bindings.js';
import { ArgumentError, DeviceError } from '../errors.js';
import { kind } from '../kinds.js';
import { translated } from './session.js';

/** A device by name: `'cuda'` is the first CUDA device, `'cuda:1'` the second; `'auto'` takes the best there is. */
export type DeviceName = 'auto' | 'cpu' | 'cuda' | `cuda:${number}`;

/** Where a model runs. */
export interface DeviceOptions {
  /**
   * Default: the environment variable `OMNI_ID_DEVICE`, or `'auto'`: a CUDA device where there is one, else the CPU. {@link devices} tells
   * what there is.
   */
  device?: DeviceName | undefined;
  /**
   * Threads that the CPU computes with: 1 to 1024. Default: the processors that this process may use, cgroup limits included. A CUDA device
   * does not ask for it.
   */
  threads?: number | undefined;
}

/** A CUDA device of this machine. */
export interface CudaDeviceInfo {
  /** What the option `device` calls it. */
  readonly device: DeviceName;
  /** The manufacturer's. */
  readonly name: string;
  /** Such as `'9.0'`. */
  readonly computeCapability: string;
  readonly multiprocessors: number;
  readonly memoryBytes: number;
}

/** What there is to compute with on this machine. */
export interface Devices {
  /** What the option `device` takes here, the one that `'auto'` takes first. */
  readonly available: readonly DeviceName[];
  /**
   * What it does not take, and why: no driver, a driver that is too old and which one is needed, no device, a device that is too old or does
   * not answer, or a build without CUDA.
   */
  readonly unavailable: readonly { readonly device: DeviceName; readonly reason: string }[];
  readonly cuda: readonly CudaDeviceInfo[];
  /** The CUDA devices are none: tests run their kernels by an emulation, which `'auto'` never takes. */
  readonly emulated: boolean;
}

const cudaName = (number: number): DeviceName => (number === 0 ? 'cuda' : `cuda:${number}`);

/** Whether this is a device's name, there or not. */
export function isDeviceName(name: unknown): name is DeviceName {
  return typeof name === 'string' && /^(auto|cpu|cuda(:(0|[1-9]\d{0,2}))?)$/.test(name);
}

export const deviceName = kind<DeviceName>(
  '"auto", "cpu", "cuda" or one of several like "cuda:1"',
  isDeviceName,
);

/**
 * What there is to compute with on this machine, and why what is not there is not.
 * @throws {AddonError} `ERR_ADDON` when the native addon cannot be loaded
 */
export function devices(): Devices {
  const found = translated(() => native().cudaDevices());
  const numbered = found.devices.map((one, number) => ({ device: cudaName(number), ...one }));
  const cuda = numbered
    .filter(({ reason }) => reason === '')
    .map(({ device, name, computeCapability, multiprocessors, memoryBytes }): CudaDeviceInfo => ({
      device,
      name,
      computeCapability,
      multiprocessors,
      memoryBytes,
    }));
  const names = cuda.map(({ device }) => device);
  const refused = numbered.filter(({ reason }) => reason !== '');
  return {
    available: found.emulated ? ['cpu', ...names] : [...names, 'cpu'],
    unavailable:
      found.reason === ''
        ? refused.map(({ device, reason }) => ({ device, reason }))
        : [{ device: 'cuda', reason: found.reason }],
    cuda,
    emulated: found.emulated,
  };
}

/**
 * What a device is called when it is opened: never `'auto'`.
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`; {DeviceError} `ERR_DEVICE_UNAVAILABLE` with the reason
 */
function resolvedName(asked: DeviceName | undefined): DeviceName {
  // An empty variable is an absent one, as for OMNI_ID_ISA.
  const preferred = process.env['OMNI_ID_DEVICE'];
  const given: string = asked ?? (preferred === undefined || preferred === '' ? 'auto' : preferred);
  if (!isDeviceName(given)) {
    throw new ArgumentError(`unknown device ${JSON.stringify(given)}: expected ${deviceName.expected}`);
  }
  if (given === 'cpu') return given;
  const { available, unavailable, cuda } = devices();
  const name = given === 'auto' ? available[0] : given === 'cuda:0' ? 'cuda' : given;
  if (name === undefined || !available.includes(name)) {
    const own =
      unavailable.find(({ device }) => device === name) ?? (cuda.length === 0 ? unavailable[0] : undefined);
    const reason =
      own?.reason ?? `there are ${cuda.length + unavailable.length} CUDA devices, numbered from 0 on`;
    throw new DeviceError(
      'ERR_DEVICE_UNAVAILABLE',
      `device ${JSON.stringify(given)} is not available: ${reason}; devices: ${available.map((one) => JSON.stringify(one)).join(', ')}`,
    );
  }
  return name;
}

/**
 * Opens a device; everything in the process that asks for the same shares one.
 * @throws {ArgumentError} `ERR_INVALID_ARGUMENT`; {DeviceError} `ERR_DEVICE_UNAVAILABLE` with the reason
 */
export function openDevice({ device, threads }: DeviceOptions): NativeDevice {
  const name = resolvedName(device);
  return translated(() => new (native().Device)(name, threads));
}

/**
 * Bytes of a device's own memory that this process has not taken yet; what others have taken of it is not known. Undefined for the CPU, which
 * computes in the host's.
 * @throws as {@link openDevice}
 */
export function freeDeviceMemory({ device, threads }: DeviceOptions): number | undefined {
  const name = resolvedName(device);
  const found = devices().cuda.find((one) => one.device === name);
  if (!found) return undefined;
  return Math.max(0, found.memoryBytes - openDevice({ device: name, threads }).memory().currentBytes);
}
