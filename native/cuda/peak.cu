// What a device can do at most with the instructions that the operators use:
//   f32: fused multiply-adds in registers, kChains of them at a time in each thread, 2 flops each
//   bf16: mma of 16 × 8 × 16 in registers, kTiles at a time in each warp, 4,096 flops each. This is the rate of mma.sync, which
//     all architectures from 8.0 on have; the wgmma of 9.0 and the tcgen05 of 10.0 reach more.
//   memory_read: 16 bytes a thread at a time, kUnrolled under way, over kMemoryBytes: more than any second-level cache holds
// Registers: at most 30.
// A result that nothing could know beforehand is stored where a condition holds that never does, so that no work is left out.
#include <chrono>

#include "cuda/device.h"
#include "cuda/peak.h"
#include "cuda/primitives.cuh"

namespace omni_id::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerMultiprocessor = 8;  // 64 warps, all that a multiprocessor holds
constexpr int kChains = 8;                   // multiply-adds that do not wait for each other: their latency is 4 cycles
constexpr int kTiles = 4;
constexpr int kUnrolled = 8;
constexpr size_t kMemoryBytes = size_t{1} << 30;
constexpr int kRounds = 5;

__global__ void __launch_bounds__(kThreads) peak_f32_kernel(int steps, float factor, float* out) {
  expect_threads<kThreads>();
  float x[kChains];
#pragma unroll
  for (int i = 0; i < kChains; ++i) x[i] = static_cast<float>(threadIdx.x + i);
  for (int step = 0; step < steps; ++step) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) x[i] = fmaf(x[i], factor, 1.0f);
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kChains; ++i) sum += x[i];
  if (sum == -1.0f) out[0] = sum;
}

__global__ void __launch_bounds__(kThreads) peak_bf16_kernel(int steps, unsigned bits, float* out) {
  expect_threads<kThreads>();
  const uint4 a = make_uint4(bits, bits, bits, bits);
  const uint2 b = make_uint2(bits, bits);
  float4 d[kTiles];
#pragma unroll
  for (int i = 0; i < kTiles; ++i) d[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  for (int step = 0; step < steps; ++step) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) d[i] = mma_bf16(a, b, d[i]);
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) sum += d[i].x + d[i].y + d[i].z + d[i].w;
  if (sum == -1.0f) out[0] = sum;
}

__global__ void __launch_bounds__(kThreads) read_kernel(const float* from, int64_t vectors, float* out) {
  expect_threads<kThreads>();
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  float sum = 0.0f;
#pragma unroll kUnrolled
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < vectors; i += stride) {
    const float4 v = load_vector<float4>(from + 4 * i);
    sum += v.x + v.y + v.z + v.w;
  }
  if (sum == -1.0f) out[0] = sum;
}

}  // namespace

double measure_peak(CudaDevice& device, Peak what, double seconds) {
  using Clock = std::chrono::steady_clock;
  const Stream& stream = device.stream();
  const unsigned blocks = static_cast<unsigned>(device.properties().multiprocessors * kBlocksPerMultiprocessor);
  const double threads = static_cast<double>(blocks) * kThreads;
  const size_t bytes = emulated() ? size_t{1} << 16 : kMemoryBytes;
  const std::shared_ptr<Buffer> memory = device.allocate(what == Peak::memory_read ? bytes : sizeof(float));
  const std::shared_ptr<Buffer> result = device.allocate(sizeof(float));
  auto* out = reinterpret_cast<float*>(result->data());
  fill_zeros(stream, memory->data(), memory->bytes());
  declare_regions("measure_peak", {{memory->data(), memory->bytes(), memory->bytes(), 1, false, "memory"},
                                   {result->data(), sizeof(float), sizeof(float), 1, true, "result"}});
  // Flops or bytes of a call of so many steps.
  const auto enqueue = [&](int steps) {
    if (what == Peak::f32) {
      launch<peak_f32_kernel>(stream, dim3(blocks), kThreads, 0, steps, 0.5f, out);
      return threads * kChains * 2.0 * steps;
    }
    if (what == Peak::bf16) {
      launch<peak_bf16_kernel>(stream, dim3(blocks), kThreads, 0, steps, 0u, out);
      return threads / kWarp * kTiles * 2.0 * 16 * 8 * 16 * steps;
    }
    for (int step = 0; step < steps; ++step) {
      launch<read_kernel>(stream, dim3(blocks), kThreads, 0, reinterpret_cast<const float*>(memory->data()),
                          static_cast<int64_t>(memory->bytes() / sizeof(float4)), out);
    }
    return static_cast<double>(memory->bytes()) * steps;
  };
  const auto rate = [&](int steps) {
    const Clock::time_point begin = Clock::now();
    const double work = enqueue(steps);
    stream.synchronize();
    return work / std::chrono::duration<double>(Clock::now() - begin).count();
  };
  int steps = 1;
  rate(steps);  // loads the kernel
  if (emulated()) return 0.0;
  // Longer and longer until a call takes its round, so that launching does not count.
  for (;;) {
    const Clock::time_point begin = Clock::now();
    rate(steps);
    if (std::chrono::duration<double>(Clock::now() - begin).count() > seconds / kRounds / 2 || steps > 1 << 28) break;
    steps *= 2;
  }
  double best = 0.0;
  for (int round = 0; round < kRounds; ++round) best = std::max(best, rate(steps));
  return best;
}

}  // namespace omni_id::cuda
