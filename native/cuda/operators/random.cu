// Fills memory with random numbers, f32 [count]: uniform in [0, 1), or normal.
//
// Strategy: a thread draws the four numbers of one counter and writes them as 16 bytes where the address allows it. Nothing is
// kept between launches: counter and key say it all. Registers: 18, and 62 for normal numbers. Cost: writes 4 bytes an element.
// Uniform numbers are bound by memory; normal ones take some 60 operations in double precision each, which at 1/64 of the f32
// rate (consumer cards) is 10^10 numbers a second: 26 microseconds for the noise of a 1024 px image (262,144 numbers), drawn
// once for some dozens of steps of a transformer.
#include "cuda/random.h"

#include "cuda/operators/launching.h"
#include "cuda/operators/vectors.cuh"
#include "cuda/philox.cuh"

namespace omni_id::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kOfCounter = 4;
// Blocks that a multiprocessor is to hold: left to itself, ptxas saves registers for more of them on sm_100, and spills.
constexpr int kBlocks = 4;

template <Distribution distribution, bool aligned>
__global__ void __launch_bounds__(kThreads, kBlocks)
    fill_random_kernel(float* to, int64_t count, uint2 key, uint2 stream, uint64_t first_block) {
  expect_threads<kThreads>();
  const int64_t block = int64_t{blockIdx.x} * kThreads + threadIdx.x, i = block * kOfCounter;
  if (i >= count) return;
  const uint64_t at = first_block + static_cast<uint64_t>(block);
  const uint4 bits =
      philox4x32(make_uint4(static_cast<unsigned>(at), static_cast<unsigned>(at >> 32), stream.x, stream.y), key);
  float x[kOfCounter];
  if constexpr (distribution == Distribution::uniform) {
    x[0] = uniform_of(bits.x), x[1] = uniform_of(bits.y), x[2] = uniform_of(bits.z), x[3] = uniform_of(bits.w);
  } else {
    const double2 two = normals_of(bits.x, bits.y), others = normals_of(bits.z, bits.w);
    x[0] = static_cast<float>(two.x), x[1] = static_cast<float>(two.y);
    x[2] = static_cast<float>(others.x), x[3] = static_cast<float>(others.y);
  }
  if (aligned && i + kOfCounter <= count) {
    store_floats(to + i, x);
  } else {
#pragma unroll
    for (int j = 0; j < kOfCounter; ++j) {
      if (i + j < count) to[i + j] = x[j];
    }
  }
}

uint2 halves(uint64_t x) { return make_uint2(static_cast<unsigned>(x), static_cast<unsigned>(x >> 32)); }

}  // namespace

void fill_random(const Stream& stream, float* to, int64_t count, Distribution distribution, uint64_t seed,
                 uint64_t random_stream, uint64_t first) {
  require(first % kOfCounter == 0, "fill_random", "the first number is not the first of a counter");
  const dim3 blocks(blocks_for(count, kThreads * kOfCounter));
  const auto start = [&]<Distribution d, bool aligned>() {
    launch<fill_random_kernel<d, aligned>>(stream, blocks, kThreads, 0, to, count, halves(seed), halves(random_stream),
                                           first / kOfCounter);
  };
  const bool aligned = reinterpret_cast<uintptr_t>(to) % kVectorBytes == 0;
  if (distribution == Distribution::uniform) {
    aligned ? start.operator()<Distribution::uniform, true>() : start.operator()<Distribution::uniform, false>();
  } else {
    aligned ? start.operator()<Distribution::normal, true>() : start.operator()<Distribution::normal, false>();
  }
}

}  // namespace omni_id::cuda
