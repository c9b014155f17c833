#pragma once

#include "cuda/primitives.cuh"

namespace omni_id::cuda {

// Division of numbers below 2^31 by a number that is known when a kernel is launched, in two instructions instead of some
// twenty: ⌊n / d⌋ = ⌊n · m / 2^(32 + s)⌋ with s = ⌈log₂ d⌉ − 1 and m = ⌈2^(32 + s) / d⌉, which fits 32 bits (Granlund and
// Montgomery 1994, "Division by invariant integers using multiplication"). For d = 1 the number itself.
struct Divisor {
  unsigned divisor = 1, multiplier = 0, shift = 0;

  explicit Divisor(int64_t d) : divisor(static_cast<unsigned>(d)) {
    if (divisor == 1) return;
    while (uint64_t{2} << shift < divisor) ++shift;
    multiplier = static_cast<unsigned>(((uint64_t{1} << (32 + shift)) + divisor - 1) / divisor);
  }
  __device__ __forceinline__ int quotient(int n) const {
    return divisor == 1 ? n : static_cast<int>(__umulhi(static_cast<unsigned>(n), multiplier) >> shift);
  }
};

}  // namespace omni_id::cuda
