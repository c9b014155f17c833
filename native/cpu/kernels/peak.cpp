// What the processor can do at most, to judge everything else by: arithmetic that never leaves the registers, and reading that
// does nothing else. Measured in the same run as the work, never taken from a data sheet.
//
// Strategy: kAccumulators independent chains of multiply-adds, more than latency times throughput of any processor we know (4
// to 7 cycles, two a cycle), and few enough to leave registers for the two constants. acc = acc · a + b rather than a · b +
// acc, so that without fused multiply-add the product cannot be taken out of the loop; |a| < 1 keeps the values normal for
// ever. Cost: peak_f32 2 · kWidth · kAccumulators flops a step, peak_bf16 twice as many, read_memory one load for 4 · kWidth
// bytes.
#include "cpu/kernels/simd.h"

namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

namespace {

#if defined(OMNI_ID_VECTOR_512) || defined(__aarch64__)
constexpr int64_t kAccumulators = 24;  // of 32 registers
#else
constexpr int64_t kAccumulators = 12;  // of 16 registers
#endif

// Makes the results count, so that no compiler finds the arithmetic useless.
void keep(const Vector* results, int64_t count) {
  Vector sum = splat(0.0f);
  for (int64_t i = 0; i < count; ++i) sum = add(sum, results[i]);
  const float total = sum_of(sum);
  asm volatile("" ::"r"(&total) : "memory");
}

}  // namespace

double peak_f32(int64_t steps) {
  Vector accumulators[kAccumulators];
  for (int64_t i = 0; i < kAccumulators; ++i) accumulators[i] = splat((float)i);
  const Vector a = splat(0.999f), b = splat(0.001f);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int64_t i = 0; i < kAccumulators; ++i) accumulators[i] = multiply_add(accumulators[i], a, b);
  }
  keep(accumulators, kAccumulators);
  return 2.0 * (double)(kWidth * kAccumulators) * (double)steps;
}

#if defined(OMNI_ID_NATIVE_BF16)

namespace {

constexpr uint32_t kPair = 0x3c243c24;  // 0.01 twice

#if defined(OMNI_ID_ISA_AVX512BF16)
OMNI_ID_INLINE __m512bh pairs() { return (__m512bh)_mm512_set1_epi32((int)kPair); }
OMNI_ID_INLINE Vector dot(Vector sum, __m512bh a, __m512bh b) { return _mm512_dpbf16_ps(sum, a, b); }
#else
OMNI_ID_INLINE bfloat16x8_t pairs() { return vreinterpretq_bf16_u32(vdupq_n_u32(kPair)); }
OMNI_ID_INLINE Vector dot(Vector sum, bfloat16x8_t a, bfloat16x8_t b) { return vbfdotq_f32(sum, a, b); }
#endif

}  // namespace

double peak_bf16(int64_t steps) {
  Vector accumulators[kAccumulators];
  for (int64_t i = 0; i < kAccumulators; ++i) accumulators[i] = splat((float)i);
  const auto a = pairs(), b = pairs();
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int64_t i = 0; i < kAccumulators; ++i) accumulators[i] = dot(accumulators[i], a, b);
  }
  keep(accumulators, kAccumulators);
  return 4.0 * (double)(kWidth * kAccumulators) * (double)steps;
}

#endif

double read_memory(const float* data, int64_t count) {
  constexpr int64_t kLoads = 8;
  Vector sums[kLoads];
  for (int64_t i = 0; i < kLoads; ++i) sums[i] = splat(0.0f);
  int64_t at = 0;
  for (; at + kLoads * kWidth <= count; at += kLoads * kWidth) {
    for (int64_t i = 0; i < kLoads; ++i) sums[i] = add(sums[i], load(data + at + i * kWidth));
  }
  keep(sums, kLoads);
  return 4.0 * (double)at;
}

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE
