#pragma once

#include "cuda/primitives.cuh"

// Sums over the threads of a block, in an order that depends on the number of threads alone.
namespace omni_id::cuda {

// Adds up each of `values` over the threads that share a row: those of a warp, or with `one_warp` false those of the block, for
// which `scratch` holds `values` floats a warp. One barrier: the block must pass another before it uses this scratch again.
template <bool one_warp, int values>
__device__ __forceinline__ void add_over_row(float (&x)[values], float* scratch) {
#pragma unroll
  for (int i = 0; i < values; ++i) x[i] = warp_sum(x[i]);
  if constexpr (!one_warp) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
    if (lane == 0) {
#pragma unroll
      for (int i = 0; i < values; ++i) scratch[warp * values + i] = x[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < values; ++i) {
      x[i] = 0.0f;
      for (int other = 0; other < warps; ++other) x[i] += scratch[other * values + i];
    }
  }
}

// The sum of all threads' values, for the block's first thread alone. `scratch` holds a value for each of `threads`, a power
// of two.
template <int threads>
__device__ __forceinline__ double sum_of_block(double x, double* scratch) {
  static_assert((threads & (threads - 1)) == 0, "halves are added");
  const int thread = threadIdx.x;
  scratch[thread] = x;
#pragma unroll
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) scratch[thread] += scratch[thread + half];
  }
  return thread == 0 ? scratch[0] : 0.0;
}

// The sum of what blocks left in the workspace, for the first thread of the one block that adds it up.
template <int threads>
__device__ __forceinline__ double sum_of_partials(const double* partial, int64_t count, double* scratch) {
  double sum = 0.0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < count; i += threads) sum += partial[i];
  return sum_of_block<threads>(sum, scratch);
}

}  // namespace omni_id::cuda
