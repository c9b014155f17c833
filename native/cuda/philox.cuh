#pragma once

#include "cuda/primitives.cuh"

// Philox 4x32-10 as in native/base/philox.h: the same numbers at the same counter and key. What is drawn from them is drawn as
// on the host, too.
namespace omni_id::cuda {

__device__ __forceinline__ uint4 philox4x32(uint4 counter, uint2 key) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const unsigned high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
    const unsigned high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
    counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
    key.x += 0x9E3779B9u;
    key.y += 0xBB67AE85u;
  }
  return counter;
}

// In [0, 1), a multiple of 2^-24: native/rendered/random.h.
__device__ __forceinline__ float uniform_of(unsigned bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

// Two normal numbers by Box and Muller's method, in double precision as in native/weights/weight_store.cpp: their rounding to
// f32 is the host's to within rare last bits. cospi, not cos: a half turn is exact, and no table of π lies on the stack.
__device__ __forceinline__ double2 normals_of(unsigned a, unsigned b) {
  const double radius = sqrt(-2.0 * log((static_cast<double>(a) + 0.5) * 0x1p-32));
  const double turn = (static_cast<double>(b) + 0.5) * 0x1p-31;  // in π
  return make_double2(radius * cospi(turn), radius * sinpi(turn));
}

}  // namespace omni_id::cuda
