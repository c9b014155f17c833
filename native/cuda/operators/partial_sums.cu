// Adds rows of partial sums: out[j] = Σ i of partial[i, j] (+ sum[j]), f32.
//
// Strategy: a block takes 32 columns, each of its kWarps warps every kWarps-th row, so that a warp reads 128 bytes that follow
// each other; the warps' sums are added in order in shared memory (kThreads floats, 4 KB). There are many rows and few columns,
// so a block has as many warps as it may: their loads are what hides the latency. Cost: reads 4 bytes an element; what came
// before has left them in the second-level cache.
#include "cuda/operators/partial_sums.h"

#include "cuda/operators/launching.h"

namespace omni_id::cuda {

namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;

__global__ void __launch_bounds__(kThreads)
    add_partial_sums_kernel(const float* partial, int64_t rows, int64_t pitch, int64_t columns, const float* sum, float* out) {
  expect_threads<kThreads>();
  OMNI_ID_SHARED(float, sums, kThreads);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t column = int64_t{blockIdx.x} * kWarp + lane;
  float total = 0.0f;
  if (column < columns) {
#pragma unroll 4
    for (int64_t row = warp; row < rows; row += kWarps) total += partial[row * pitch + column];
  }
  sums[threadIdx.x] = total;
  __syncthreads();
  if (warp != 0 || column >= columns) return;
  for (int other = 1; other < kWarps; ++other) total += sums[other * kWarp + lane];
  out[column] = sum ? sum[column] + total : total;
}

}  // namespace

void add_partial_sums(const Stream& stream, const float* partial, int64_t rows, int64_t pitch, int64_t columns,
                      const float* sum, float* out) {
  launch<add_partial_sums_kernel>(stream, dim3(blocks_for(columns, kWarp)), kThreads, 0, partial, rows, pitch, columns, sum,
                                  out);
}

}  // namespace omni_id::cuda
