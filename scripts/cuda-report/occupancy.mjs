// How many blocks of a kernel a multiprocessor holds at once.
//
// Sources: the table "Technical Specifications per Compute Capability" of NVIDIA's CUDA C++ Programming Guide for the limits (the Blackwell
// Tuning Guide says 32 blocks for 12.0 where it says 24; devices report 24), and the toolkit's cuda_occupancy.h for the units of allocation.

const KiB = 1024;
const lanes = 32;
const registersOfThread = 255;
const registerUnit = 256; // registers of a warp are allocated in these
const sharedUnit = 128; // and shared memory of a block in these bytes
const reservedShared = KiB; // of every block, for the system
const partitions = 4; // of a multiprocessor, each with a quarter of the registers and warps

/** By architecture: warps, blocks, registers and shared memory of a multiprocessor; shared memory that a block can ask for. */
export const limits = {
  80: { warps: 64, blocks: 32, registers: 65536, shared: 164 * KiB, sharedOfBlock: 163 * KiB },
  86: { warps: 48, blocks: 16, registers: 65536, shared: 100 * KiB, sharedOfBlock: 99 * KiB },
  89: { warps: 48, blocks: 24, registers: 65536, shared: 100 * KiB, sharedOfBlock: 99 * KiB },
  90: { warps: 64, blocks: 32, registers: 65536, shared: 228 * KiB, sharedOfBlock: 227 * KiB },
  100: { warps: 64, blocks: 32, registers: 65536, shared: 228 * KiB, sharedOfBlock: 227 * KiB },
  120: { warps: 48, blocks: 24, registers: 65536, shared: 100 * KiB, sharedOfBlock: 99 * KiB },
};

const up = (x, unit) => Math.ceil(x / unit) * unit;

/**
 * @param {{ architecture: number, registers: number, threads: number, staticShared: number, dynamicShared: number }} kernel
 * @returns {{ blocks: number, occupancy: number, limitedBy: string }} blocks a multiprocessor, warps of the most there can be, and what allows no
 *   more
 */
export function occupancy({ architecture, registers, threads, staticShared, dynamicShared }) {
  const most = limits[architecture];
  const warps = Math.ceil(threads / lanes);
  const ofWarp = up(Math.max(registers, 1) * lanes, registerUnit);
  const warpsByRegisters = Math.floor(most.registers / partitions / ofWarp) * partitions;
  const shared = up(staticShared + dynamicShared + reservedShared, sharedUnit);
  const fits = registers <= registersOfThread && staticShared + dynamicShared <= most.sharedOfBlock;
  const bounds = {
    warps: Math.floor(most.warps / warps),
    blocks: most.blocks,
    registers: fits ? Math.floor(warpsByRegisters / warps) : 0,
    'shared memory': fits ? Math.floor(most.shared / shared) : 0,
  };
  const [limitedBy, blocks] = Object.entries(bounds).reduce((a, b) => (b[1] < a[1] ? b : a));
  return { blocks, occupancy: (blocks * warps) / most.warps, limitedBy };
}
