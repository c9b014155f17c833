// Adds rows of partial sums: out[j] = Σ i of partial[i, j] (+ sum[j]), f32.
//
// Strategy: a block takes 32 columns, each of its kWarps warps every kWarps-th row, so that a warp reads 128 bytes that follow
// each other; the warps' sums are added in order in shared memory (kThreads floats, 4 KB). There are many rows and few columns,
// so a block has as many warps as it may: their loads are what hides the latency. Registers: at most 42. Cost: reads 4 bytes an
// element; what came before has left them in the second-level cache.
#include "cuda/operators/partial_sums.h"

#include "cuda/operators/launching.h"

namespace omni_id::cuda {

namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;

__global__ void __launch_bounds__(kThreads) add_partial_sums_kernel(PartialSums one, PartialSums another) {
  expect_threads<kThreads>();
  OMNI_ID_SHARED(float, sums, kThreads);
  const PartialSums g = blockIdx.y == 0 ? one : another;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t column = int64_t{blockIdx.x} * kWarp + lane;
  float total = 0.0f;
  if (column < g.columns) {
#pragma unroll 4
    for (int64_t row = warp; row < g.rows; row += kWarps) total += g.partial[row * g.pitch + column];
  }
  sums[threadIdx.x] = total;
  __syncthreads();
  if (warp != 0 || column >= g.columns) return;
  for (int other = 1; other < kWarps; ++other) total += sums[other * kWarp + lane];
  const int64_t at = column < g.out_columns ? column : column / g.out_columns * g.out_stride + column % g.out_columns;
  g.out[at] = g.sum ? g.sum[column] + total : total;
}

}  // namespace

void add_partial_sums(const Stream& stream, const PartialSums& one, const PartialSums& another) {
  const dim3 blocks(blocks_for(std::max(one.columns, another.columns), kWarp), another.columns > 0 ? 2 : 1);
  launch<add_partial_sums_kernel>(stream, blocks, kThreads, 0, one, another);
}

}  // namespace omni_id::cuda
