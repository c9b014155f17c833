// Lines of pixels on their way from planes, as images have them, to rows of patches, [x][channel], and the masked L1 loss of
// such rows.
//
// Strategy: of three channels, the loop over them has a known end, and the compiler makes shuffles of it. A loss interleaves a
// line of the target and of the mask (whose planes are one) for all patches that it crosses, in the nearest cache, and then
// takes whole vectors of each patch's prediction beside them. Cost: a prediction, a target and a share of a mask are read once,
// 16 bytes with the gradient that is written, for about 6 flops: bound by memory.
#include "cpu/kernels/simd.h"

namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

namespace {

template <int64_t kChannels>
OMNI_ID_INLINE void interleave_channels(const float* from, int64_t plane, int64_t pixels, float* to) {
  for (int64_t x = 0; x < pixels; ++x) {
    for (int64_t c = 0; c < kChannels; ++c) to[x * kChannels + c] = from[c * plane + x];
  }
}

// Calls body(patch, element of its line, element of the whole line, lanes) for the vectors of a line of all patches.
template <typename Body>
OMNI_ID_INLINE void each_vector(const MaskedL1* g, const Body& body) {
  for (int64_t patch = 0; patch < g->patches; ++patch) {
    for (int64_t j = 0; j < g->count; j += kWidth) {
      body(patch, j, patch * g->count + j, smaller(kWidth, g->count - j));
    }
  }
}

}  // namespace

void interleave(const float* from, int64_t plane, int64_t channels, int64_t pixels, float* to) {
  if (channels == 3) return interleave_channels<3>(from, plane, pixels, to);
  for (int64_t x = 0; x < pixels; ++x) {
    for (int64_t c = 0; c < channels; ++c) to[x * channels + c] = from[c * plane + x];
  }
}

float masked_l1(const MaskedL1* g) {
  Vector sum = splat(0.0f);
  each_vector(g, [&](int64_t patch, int64_t j, int64_t column, int64_t n) {
    const Vector difference =
        subtract(load_any(g->prediction, kF32, patch * g->stride + j, n), load_any(g->target, kF32, column, n));
    const Vector size = larger_of(difference, subtract(splat(0.0f), difference));
    sum = multiply_add(size, load_any(g->mask, kF32, column, n), sum);
  });
  return sum_of(sum);
}

void masked_l1_gradient(const MaskedL1* g) {
  const Vector scale = splat(g->scale), large = splat(0x1p127f);
  each_vector(g, [&](int64_t patch, int64_t j, int64_t column, int64_t n) {
    const Vector difference =
        subtract(load_any(g->prediction, kF32, patch * g->stride + j, n), load_any(g->target, kF32, column, n));
    // Twice 2^127 makes at least 1 of the smallest difference. Bounds stand first, so that NaN stays NaN; what is not finite
    // becomes NaN too: then its difference from itself is.
    const Vector beyond = multiply(multiply(difference, large), large);
    const Vector sign = larger_of(splat(-1.0f), smaller_of(splat(1.0f), beyond));
    const Vector weight = multiply(load_any(g->mask, kF32, column, n), scale);
    const Vector dy = multiply(add(sign, subtract(difference, difference)), weight);
    store_any(g->out, kF32, patch * g->out_stride + j, dy, n);
  });
}

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE
