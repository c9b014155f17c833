#pragma once

// What a kernel's source may use of the machine: CUDA's own names, the primitives of primitives.cuh, and the five things below
// for which C++ has no spelling that both compilers take. nvcc compiles the sources for graphics processors; the C++ compiler
// compiles the very same sources against native/cuda/emulation, which gives every name here the meaning that CUDA's execution
// model gives it and reports what the model forbids.
//
//   launch<kernel>(stream, grid, threads, shared_bytes, arguments…)   instead of kernel<<<…>>>(…)
//   dynamic_shared<T>()                                               instead of extern __shared__ T name[]
//   OMNI_ID_SHARED(T, name, count)                                    instead of __shared__ T name[count]
//   expect_dynamic_shared<bytes>(), expect_threads<n>()               say what a kernel is launched with at most
//
// Rules that keep kernels within what both can do, and what the emulation can judge:
// - Warp operations take the full mask and all 32 lanes; blocks are multiples of 32 threads.
// - Threads of a block are ordered by __syncthreads, those of a warp by __syncwarp too, and blocks of one launch by nothing. No
//   atomics on floats: sums run in a fixed order, so that every run gives the same bits.
// - Vectors of 8 or 16 bytes are moved by load_vector and store_vector, which check alignment.

#ifdef OMNI_ID_EMULATION
#include "cuda/emulation/execution.h"
#else

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "cuda/errors.h"
#include "cuda/runtime.h"

#define OMNI_ID_SHARED(T, name, count) __shared__ T name[count]

namespace omni_id::cuda {

using bf16 = __nv_bfloat16;

template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char omni_id_dynamic_shared[];
  return reinterpret_cast<T*>(omni_id_dynamic_shared);
}

// At a kernel's start: the most dynamic shared memory, and the most threads, that this instance is launched with. Comments in
// the PTX, where scripts/cuda-report finds them and compares the threads with __launch_bounds__, of which the emulation knows
// nothing; under emulation a launch with more is a finding.
template <size_t bytes>
__device__ __forceinline__ void expect_dynamic_shared() {
  asm volatile("// dynamic shared memory: %0 bytes" ::"n"(static_cast<int>(bytes)));
}
template <unsigned n>
__device__ __forceinline__ void expect_threads() {
  asm volatile("// at most %0 threads" ::"n"(static_cast<int>(n)));
}

// Shared memory above 48 KB must be asked for before the first launch.
template <auto kernel>
void allow_shared(size_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), "shared memory");
}

// Does nothing for a grid without blocks.
template <auto kernel, typename... Given>
void launch(const Stream& stream, dim3 grid, unsigned threads, size_t shared_bytes, Given... given) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream.handle());
  check(cudaLaunchKernelEx(&config, kernel, given...), "launch");
}

}  // namespace omni_id::cuda

#endif
