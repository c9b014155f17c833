#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cpu/kernels/kernels.h"

// One vector of floats in the instruction set that this file is being compiled for, and the few operations that the
// kernels are written in. Everything is static or a macro inside the instruction set's own namespace (see kernels.h), and
// includes no header with inline code of its own but the compiler's intrinsics.
#if defined(OMNI_ID_ISA_AVX2) || defined(OMNI_ID_ISA_AVX512) || defined(OMNI_ID_ISA_AVX512BF16)
#include <immintrin.h>
#elif defined(OMNI_ID_ISA_NEON) || defined(OMNI_ID_ISA_NEONBF16)
#include <arm_neon.h>
#endif

#if defined(OMNI_ID_ISA_AVX512) || defined(OMNI_ID_ISA_AVX512BF16)
#define OMNI_ID_VECTOR_512 1
#endif

#if defined(OMNI_ID_ISA_NEON) || defined(OMNI_ID_ISA_NEONBF16)
#define OMNI_ID_VECTOR_NEON 1
#endif

// The tile multiplies pairs of bfloat16 itself.
#if defined(OMNI_ID_ISA_AVX512BF16) || defined(OMNI_ID_ISA_NEONBF16)
#define OMNI_ID_NATIVE_BF16 1
#endif

#define OMNI_ID_INLINE static inline __attribute__((always_inline))

namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

#if defined(OMNI_ID_NATIVE_BF16)
constexpr bool kNativeBf16 = true;
#else
constexpr bool kNativeBf16 = false;
#endif

// Scratch is laid out in whole cache lines.
OMNI_ID_INLINE size_t aligned(size_t bytes) { return (bytes + 63) & ~(size_t)63; }
OMNI_ID_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
OMNI_ID_INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

OMNI_ID_INLINE float float_of(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
OMNI_ID_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}
OMNI_ID_INLINE uint16_t bf16_of(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
  return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#if defined(OMNI_ID_VECTOR_512)

typedef __m512 Vector;
constexpr int64_t kWidth = 16;

OMNI_ID_INLINE __mmask16 first_lanes(int64_t n) { return (__mmask16)((1u << n) - 1u); }
OMNI_ID_INLINE Vector splat(float x) { return _mm512_set1_ps(x); }
OMNI_ID_INLINE Vector load(const float* p) { return _mm512_loadu_ps(p); }
OMNI_ID_INLINE Vector load_n(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
OMNI_ID_INLINE void store(float* p, Vector x) { _mm512_storeu_ps(p, x); }
OMNI_ID_INLINE void store_n(float* p, Vector x, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), x); }
OMNI_ID_INLINE Vector load_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
OMNI_ID_INLINE __m256i to_bf16(Vector x) {
#if defined(OMNI_ID_ISA_AVX512BF16)
  return (__m256i)_mm512_cvtneps_pbh(x);
#else
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
#endif
}
OMNI_ID_INLINE void store_bf16(uint16_t* p, Vector x) { _mm256_storeu_si256((__m256i*)p, to_bf16(x)); }
OMNI_ID_INLINE void store_bf16_n(uint16_t* p, Vector x, int64_t n) { _mm256_mask_storeu_epi16(p, first_lanes(n), to_bf16(x)); }
OMNI_ID_INLINE Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
OMNI_ID_INLINE Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
OMNI_ID_INLINE Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
OMNI_ID_INLINE Vector divide(Vector a, Vector b) { return _mm512_div_ps(a, b); }
OMNI_ID_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
OMNI_ID_INLINE Vector larger_of(Vector a, Vector b) { return _mm512_max_ps(a, b); }
OMNI_ID_INLINE Vector smaller_of(Vector a, Vector b) { return _mm512_min_ps(a, b); }
OMNI_ID_INLINE Vector round_to_integer(Vector a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
OMNI_ID_INLINE Vector scale_by_power(Vector a, Vector n) { return _mm512_scalef_ps(a, n); }
OMNI_ID_INLINE Vector square_root(Vector a) { return _mm512_sqrt_ps(a); }
OMNI_ID_INLINE float sum_of(Vector a) { return _mm512_reduce_add_ps(a); }
OMNI_ID_INLINE float largest_of(Vector a) { return _mm512_reduce_max_ps(a); }

#elif defined(OMNI_ID_ISA_AVX2)

typedef __m256 Vector;
constexpr int64_t kWidth = 8;

OMNI_ID_INLINE __m256i first_lanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
OMNI_ID_INLINE Vector splat(float x) { return _mm256_set1_ps(x); }
OMNI_ID_INLINE Vector load(const float* p) { return _mm256_loadu_ps(p); }
OMNI_ID_INLINE Vector load_n(const float* p, int64_t n) { return _mm256_maskload_ps(p, first_lanes(n)); }
OMNI_ID_INLINE void store(float* p, Vector x) { _mm256_storeu_ps(p, x); }
OMNI_ID_INLINE void store_n(float* p, Vector x, int64_t n) { _mm256_maskstore_ps(p, first_lanes(n), x); }
OMNI_ID_INLINE Vector load_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
OMNI_ID_INLINE __m128i to_bf16(Vector x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}
OMNI_ID_INLINE void store_bf16(uint16_t* p, Vector x) { _mm_storeu_si128((__m128i*)p, to_bf16(x)); }
OMNI_ID_INLINE void store_bf16_n(uint16_t* p, Vector x, int64_t n) {
  uint16_t whole[8];
  _mm_storeu_si128((__m128i*)whole, to_bf16(x));
  for (int64_t i = 0; i < n; ++i) p[i] = whole[i];
}
OMNI_ID_INLINE Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
OMNI_ID_INLINE Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
OMNI_ID_INLINE Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
OMNI_ID_INLINE Vector divide(Vector a, Vector b) { return _mm256_div_ps(a, b); }
OMNI_ID_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
OMNI_ID_INLINE Vector larger_of(Vector a, Vector b) { return _mm256_max_ps(a, b); }
OMNI_ID_INLINE Vector smaller_of(Vector a, Vector b) { return _mm256_min_ps(a, b); }
OMNI_ID_INLINE Vector round_to_integer(Vector a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// n must lie in [-126, 127].
OMNI_ID_INLINE Vector scale_by_power(Vector a, Vector n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(a, _mm256_castsi256_ps(exponent));
}
OMNI_ID_INLINE Vector square_root(Vector a) { return _mm256_sqrt_ps(a); }
OMNI_ID_INLINE float sum_of(Vector a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
OMNI_ID_INLINE float largest_of(Vector a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
}

#elif defined(OMNI_ID_VECTOR_NEON)

typedef float32x4_t Vector;
constexpr int64_t kWidth = 4;

OMNI_ID_INLINE Vector splat(float x) { return vdupq_n_f32(x); }
OMNI_ID_INLINE Vector load(const float* p) { return vld1q_f32(p); }
OMNI_ID_INLINE void store(float* p, Vector x) { vst1q_f32(p, x); }
// NEON has no masks: a part of a vector is its low half, if it has that, and a lane.
OMNI_ID_INLINE Vector load_n(const float* p, int64_t n) {
  if (n >= kWidth) return load(p);
  Vector x = splat(0.0f);
  if (n & 2) x = vcombine_f32(vld1_f32(p), vget_high_f32(x));
  if (n == 3) x = vld1q_lane_f32(p + 2, x, 2);
  if (n == 1) x = vld1q_lane_f32(p, x, 0);
  return x;
}
OMNI_ID_INLINE void store_n(float* p, Vector x, int64_t n) {
  if (n >= kWidth) store(p, x);
  if (n & 2) vst1_f32(p, vget_low_f32(x));
  if (n == 3) vst1q_lane_f32(p + 2, x, 2);
  if (n == 1) vst1q_lane_f32(p, x, 0);
}
OMNI_ID_INLINE Vector load_bf16(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
OMNI_ID_INLINE uint16x4_t to_bf16(Vector x) {
#if defined(OMNI_ID_ISA_NEONBF16)
  return vreinterpret_u16_bf16(vcvt_bf16_f32(x));
#else
  const uint32x4_t bits = vreinterpretq_u32_f32(x);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16);
#endif
}
OMNI_ID_INLINE void store_bf16(uint16_t* p, Vector x) { vst1_u16(p, to_bf16(x)); }
OMNI_ID_INLINE void store_bf16_n(uint16_t* p, Vector x, int64_t n) {
  uint16_t whole[4];
  vst1_u16(whole, to_bf16(x));
  for (int64_t i = 0; i < n; ++i) p[i] = whole[i];
}
OMNI_ID_INLINE Vector add(Vector a, Vector b) { return vaddq_f32(a, b); }
OMNI_ID_INLINE Vector subtract(Vector a, Vector b) { return vsubq_f32(a, b); }
OMNI_ID_INLINE Vector multiply(Vector a, Vector b) { return vmulq_f32(a, b); }
OMNI_ID_INLINE Vector divide(Vector a, Vector b) { return vdivq_f32(a, b); }
OMNI_ID_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
// Of an unordered pair these give NaN, whichever side it stands on; the other instruction sets give the second operand.
OMNI_ID_INLINE Vector larger_of(Vector a, Vector b) { return vmaxq_f32(a, b); }
OMNI_ID_INLINE Vector smaller_of(Vector a, Vector b) { return vminq_f32(a, b); }
OMNI_ID_INLINE Vector round_to_integer(Vector a) { return vrndnq_f32(a); }
// n must lie in [-126, 127].
OMNI_ID_INLINE Vector scale_by_power(Vector a, Vector n) {
  const int32x4_t exponent = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
  return vmulq_f32(a, vreinterpretq_f32_s32(exponent));
}
OMNI_ID_INLINE Vector square_root(Vector a) { return vsqrtq_f32(a); }
// The lanes meet in the order of AVX2's last two steps; vaddvq_f32 would take neighbours first.
OMNI_ID_INLINE float sum_of(Vector a) {
  const float32x2_t halves = vadd_f32(vget_low_f32(a), vget_high_f32(a));
  return vget_lane_f32(halves, 0) + vget_lane_f32(halves, 1);
}
OMNI_ID_INLINE float largest_of(Vector a) { return vmaxvq_f32(a); }

#else

// Portable: the compiler's generic vectors of four floats, which every 64-bit processor's baseline has.
typedef float Vector __attribute__((vector_size(16)));
typedef int32_t Integers __attribute__((vector_size(16)));
constexpr int64_t kWidth = 4;

OMNI_ID_INLINE Vector splat(float x) { return (Vector){x, x, x, x}; }
OMNI_ID_INLINE Vector load(const float* p) {
  Vector x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
OMNI_ID_INLINE Vector load_n(const float* p, int64_t n) {
  Vector x = splat(0.0f);
  for (int64_t i = 0; i < n; ++i) x[i] = p[i];
  return x;
}
OMNI_ID_INLINE void store(float* p, Vector x) { __builtin_memcpy(p, &x, sizeof x); }
OMNI_ID_INLINE void store_n(float* p, Vector x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = x[i];
}
OMNI_ID_INLINE Vector load_bf16(const uint16_t* p) {
  return (Vector){float_of((uint32_t)p[0] << 16), float_of((uint32_t)p[1] << 16), float_of((uint32_t)p[2] << 16),
                  float_of((uint32_t)p[3] << 16)};
}
OMNI_ID_INLINE void store_bf16_n(uint16_t* p, Vector x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = bf16_of(x[i]);
}
OMNI_ID_INLINE void store_bf16(uint16_t* p, Vector x) { store_bf16_n(p, x, kWidth); }
OMNI_ID_INLINE Vector add(Vector a, Vector b) { return a + b; }
OMNI_ID_INLINE Vector subtract(Vector a, Vector b) { return a - b; }
OMNI_ID_INLINE Vector multiply(Vector a, Vector b) { return a * b; }
OMNI_ID_INLINE Vector divide(Vector a, Vector b) { return a / b; }
OMNI_ID_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return a * b + c; }
OMNI_ID_INLINE Vector larger_of(Vector a, Vector b) { return a > b ? a : b; }
OMNI_ID_INLINE Vector smaller_of(Vector a, Vector b) { return a < b ? a : b; }
// Adding and taking away 1.5·2^23 leaves the nearest integer for |a| < 2^22.
OMNI_ID_INLINE Vector round_to_integer(Vector a) { return (a + splat(12582912.0f)) - splat(12582912.0f); }
// n must lie in [-126, 127].
OMNI_ID_INLINE Vector scale_by_power(Vector a, Vector n) {
  const Integers exponent = (__builtin_convertvector(n, Integers) + 127) << 23;
  Vector power;
  __builtin_memcpy(&power, &exponent, sizeof power);
  return a * power;
}
OMNI_ID_INLINE Vector square_root(Vector a) {
  return (Vector){__builtin_sqrtf(a[0]), __builtin_sqrtf(a[1]), __builtin_sqrtf(a[2]), __builtin_sqrtf(a[3])};
}
OMNI_ID_INLINE float sum_of(Vector a) { return (a[0] + a[2]) + (a[1] + a[3]); }
OMNI_ID_INLINE float largest_of(Vector a) {
  const float x = a[0] > a[1] ? a[0] : a[1], y = a[2] > a[3] ? a[2] : a[3];
  return x > y ? x : y;
}

#endif

OMNI_ID_INLINE Vector load_bf16_n(const uint16_t* p, int64_t n) {
  uint16_t whole[kWidth] = {};
  for (int64_t i = 0; i < n; ++i) whole[i] = p[i];
  return load_bf16(whole);
}

// e^x for x ≤ 88, relative error below 3e-7; x below −87 gives e^−87. x·log2(e) is split in high and low parts so that the
// error does not grow with x; 2^f on [−½, ½] is a minimax polynomial (relative error 2e-9 before rounding).
OMNI_ID_INLINE Vector exponential(Vector x) {
  // Bounds stand first: of an unordered pair the second operand is taken, so that NaN stays NaN.
  x = larger_of(splat(-87.0f), smaller_of(splat(88.0f), x));
  const Vector n = round_to_integer(multiply(x, splat(1.44269504f)));
  Vector f = multiply_add(x, splat(1.44269502f), subtract(splat(0.0f), n));
  f = multiply_add(x, splat(1.92596299e-8f), f);
  Vector p = splat(0.00015345823f);
  p = multiply_add(p, f, splat(0.0013399936f));
  p = multiply_add(p, f, splat(0.009618489f));
  p = multiply_add(p, f, splat(0.055503286f));
  p = multiply_add(p, f, splat(0.24022646f));
  p = multiply_add(p, f, splat(0.6931472f));
  p = multiply_add(p, f, splat(1.0f));
  return scale_by_power(p, n);
}

// Exact GELU, x·Φ(x). Φ(x) = ½ + x·P(u), u = 2x²/5.4² − 1 on |x| ≤ 5.4, where the rest of the normal distribution is below
// half an ulp of 1. P is a minimax polynomial of degree 14 in u ∈ [−1, 1], where it is well conditioned: |error of Φ| < 1.4e-7,
// with neither a division nor an exponential. native/test/kernels_test.cpp holds all three activations to what is said here.
OMNI_ID_INLINE Vector normal_distribution(Vector x) {
  const Vector bounded = larger_of(smaller_of(x, splat(5.4f)), splat(-5.4f));
  const Vector u = multiply_add(multiply(bounded, bounded), splat(0.0685871056f), splat(-1.0f));
  Vector p = splat(0.00039285884f);
  p = multiply_add(p, u, splat(-0.0010283688f));
  p = multiply_add(p, u, splat(0.00087493344f));
  p = multiply_add(p, u, splat(-0.0011864102f));
  p = multiply_add(p, u, splat(0.0036589229f));
  p = multiply_add(p, u, splat(-0.006715338f));
  p = multiply_add(p, u, splat(0.009651195f));
  p = multiply_add(p, u, splat(-0.01396332f));
  p = multiply_add(p, u, splat(0.019645145f));
  p = multiply_add(p, u, splat(-0.025746457f));
  p = multiply_add(p, u, splat(0.032116596f));
  p = multiply_add(p, u, splat(-0.039206814f));
  p = multiply_add(p, u, splat(0.04849959f));
  p = multiply_add(p, u, splat(-0.065328054f));
  p = multiply_add(p, u, splat(0.13092811f));
  const Vector phi = multiply_add(bounded, p, splat(0.5f));
  return larger_of(smaller_of(phi, splat(1.0f)), splat(0.0f));
}

OMNI_ID_INLINE Vector gelu(Vector x) { return multiply(x, normal_distribution(x)); }

// Its derivative, Φ(x) + x·φ(x), φ(x) = e^(−x²/2) / √(2π): |error| < 6e-7.
OMNI_ID_INLINE Vector gelu_derivative(Vector x) {
  const Vector density = multiply(exponential(multiply(multiply(x, x), splat(-0.5f))), splat(0.39894228f));
  return multiply_add(x, density, normal_distribution(x));
}

// GELU whose result is rounded to bfloat16 next: the same with P of degree 8 on |x| ≤ 4.3, |error of Φ| < 1.0e-5, |error|
// < 4.3e-5, a fortieth of the rounding of a result near 1.
OMNI_ID_INLINE Vector gelu_for_bf16(Vector x) {
  const Vector bounded = larger_of(smaller_of(x, splat(4.3f)), splat(-4.3f));
  const Vector u = multiply_add(multiply(bounded, bounded), splat(0.108166578f), splat(-1.0f));
  Vector p = splat(0.00275411387f);
  p = multiply_add(p, u, splat(-0.00703714276f));
  p = multiply_add(p, u, splat(0.00906481873f));
  p = multiply_add(p, u, splat(-0.0145165697f));
  p = multiply_add(p, u, splat(0.0261553861f));
  p = multiply_add(p, u, splat(-0.0397166088f));
  p = multiply_add(p, u, splat(0.0555598065f));
  p = multiply_add(p, u, splat(-0.0800383091f));
  p = multiply_add(p, u, splat(0.164053872f));
  const Vector phi = multiply_add(bounded, p, splat(0.5f));
  return multiply(x, larger_of(smaller_of(phi, splat(1.0f)), splat(0.0f)));
}

// The derivative of GELU where what is multiplied by it is rounded to bfloat16 next: ½ + x·P(u), u = 2x²/4.8² − 1 on |x| ≤ 4.8,
// P of degree 11 as above, |error| < 2.6e-5 (most of it beyond 4.8, where 1 or 0 is taken).
OMNI_ID_INLINE Vector gelu_derivative_for_bf16(Vector x) {
  // Bounds stand first: of an unordered pair the second operand is taken, so that NaN stays NaN.
  const Vector bounded = larger_of(splat(-4.8f), smaller_of(splat(4.8f), x));
  const Vector u = multiply_add(multiply(bounded, bounded), splat(0.0868055556f), splat(-1.0f));
  Vector p = splat(-0.0124148763f);
  p = multiply_add(p, u, splat(0.0297251435f));
  p = multiply_add(p, u, splat(-0.0236874306f));
  p = multiply_add(p, u, splat(0.0260129327f));
  p = multiply_add(p, u, splat(-0.0612801344f));
  p = multiply_add(p, u, splat(0.0865283839f));
  p = multiply_add(p, u, splat(-0.0887075257f));
  p = multiply_add(p, u, splat(0.0863509251f));
  p = multiply_add(p, u, splat(-0.0805231651f));
  p = multiply_add(p, u, splat(0.073923475f));
  p = multiply_add(p, u, splat(-0.0802264108f));
  p = multiply_add(p, u, splat(0.148467747f));
  return multiply_add(bounded, p, splat(0.5f));
}

// x · sigmoid(1.702 x), the approximation that OpenAI's CLIP was trained with. The exponential's relative error,
// and 3.5·2^-24·|x| of its rounded argument, count by the share of e^(−1.702 x) in the denominator; sum and quotient add a
// rounding each.
OMNI_ID_INLINE Vector quick_gelu(Vector x) { return divide(x, add(splat(1.0f), exponential(multiply(x, splat(-1.702f))))); }

// s + 1.702 x · s · (1 − s), s = sigmoid(1.702 x)
OMNI_ID_INLINE Vector quick_gelu_derivative(Vector x) {
  const Vector e = exponential(multiply(x, splat(-1.702f)));
  const Vector s = divide(splat(1.0f), add(splat(1.0f), e));
  return multiply(s, multiply_add(multiply(x, splat(1.702f)), multiply(s, e), splat(1.0f)));
}

template <Activation kActivation, bool kToBf16>
OMNI_ID_INLINE Vector activated(Vector x) {
  if constexpr (kActivation == kGelu) return kToBf16 ? gelu_for_bf16(x) : gelu(x);
  if constexpr (kActivation == kQuickGelu) return quick_gelu(x);
  return x;
}

template <Activation kActivation, bool kToBf16>
OMNI_ID_INLINE Vector derivative_of(Vector x) {
  if constexpr (kActivation == kGelu) return kToBf16 ? gelu_derivative_for_bf16(x) : gelu_derivative(x);
  if constexpr (kActivation == kQuickGelu) return quick_gelu_derivative(x);
  return splat(1.0f);
}

// n ≤ kWidth elements of either type from element `at` on.
OMNI_ID_INLINE Vector load_any(const void* from, ElementType type, int64_t at, int64_t n) {
  if (type == kF32) return n == kWidth ? load((const float*)from + at) : load_n((const float*)from + at, n);
  return n == kWidth ? load_bf16((const uint16_t*)from + at) : load_bf16_n((const uint16_t*)from + at, n);
}
OMNI_ID_INLINE void store_any(void* to, ElementType type, int64_t at, Vector x, int64_t n) {
  if (type == kF32) {
    n == kWidth ? store((float*)to + at, x) : store_n((float*)to + at, x, n);
  } else {
    n == kWidth ? store_bf16((uint16_t*)to + at, x) : store_bf16_n((uint16_t*)to + at, x, n);
  }
}

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE
