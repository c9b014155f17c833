#pragma once

#include "cpu/kernels/simd.h"

// Words of what lies in memory as f32 or bfloat16, in the form that the GEMM tile multiplies: a word is a float, or a pair of
// bfloat16 that lie behind each other in k.
namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

// A vector of words, each the low 16 bits of a lane of `low` below those of `high`; both hold bfloat16 in f32.
OMNI_ID_INLINE Vector interleave(Vector low, Vector high) {
#if defined(OMNI_ID_VECTOR_512)
  const __m512i a = _mm512_cvtepu16_epi32(to_bf16(low)), b = _mm512_cvtepu16_epi32(to_bf16(high));
  return _mm512_castsi512_ps(_mm512_or_si512(a, _mm512_slli_epi32(b, 16)));
#else
  uint16_t first[kWidth], second[kWidth], words[2 * kWidth];
  store_bf16(first, low);
  store_bf16(second, high);
  for (int64_t i = 0; i < kWidth; ++i) {
    words[2 * i] = first[i];
    words[2 * i + 1] = second[i];
  }
  return load((const float*)words);
#endif
}

// kWidth words along a row: `elements` of them are there, the others are zeros.
template <bool kPairs>
OMNI_ID_INLINE Vector words_along(const void* from, ElementType type, int64_t at, int64_t elements) {
  if constexpr (!kPairs) {
    return elements <= 0 ? splat(0.0f) : load_any(from, type, at, smaller(kWidth, elements));
  } else {
    if (type == kBf16 && elements >= 2 * kWidth) return load((const float*)((const uint16_t*)from + at));
#if defined(OMNI_ID_VECTOR_512)
    if (elements >= 2 * kWidth) {
      const float* f32 = (const float*)from + at;
      const __m512i low = _mm512_castsi256_si512(to_bf16(load(f32)));
      return _mm512_castsi512_ps(_mm512_inserti64x4(low, to_bf16(load(f32 + kWidth)), 1));
    }
#endif
    uint16_t words[2 * kWidth] = {};
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t n = smaller(kWidth, elements - half * kWidth);
      if (n > 0) store_bf16(words + half * kWidth, load_any(from, type, at + half * kWidth, n));
    }
    return load((const float*)words);
  }
}

// kWidth words down two rows (or one, of floats), of which the second may be missing.
template <bool kPairs, Activation kActivation = kNoActivation>
OMNI_ID_INLINE Vector words_across(const void* from, ElementType type, int64_t at, int64_t stride, bool has_second, int64_t n) {
  if (n <= 0) return splat(0.0f);
  const Vector first = activated<kActivation, kPairs>(load_any(from, type, at, smaller(kWidth, n)));
  if constexpr (!kPairs) return first;
  if (!has_second) return interleave(first, splat(0.0f));
  return interleave(first, activated<kActivation, kPairs>(load_any(from, type, at + stride, smaller(kWidth, n))));
}

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE
