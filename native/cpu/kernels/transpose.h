#pragma once

#include "cpu/kernels/simd.h"

// Squares of 32-bit words turned in registers: lane j of row i becomes lane i of row j. A word is a float or a pair of
// bfloat16; only its bits are moved.
namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

#if defined(OMNI_ID_VECTOR_512)

OMNI_ID_INLINE void transpose(Vector (&rows)[16]) {
  __m512d pairs[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 4) {
    const Vector low0 = _mm512_unpacklo_ps(rows[i], rows[i + 1]), high0 = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    const Vector low1 = _mm512_unpacklo_ps(rows[i + 2], rows[i + 3]), high1 = _mm512_unpackhi_ps(rows[i + 2], rows[i + 3]);
    pairs[i] = _mm512_unpacklo_pd(_mm512_castps_pd(low0), _mm512_castps_pd(low1));
    pairs[i + 1] = _mm512_unpackhi_pd(_mm512_castps_pd(low0), _mm512_castps_pd(low1));
    pairs[i + 2] = _mm512_unpacklo_pd(_mm512_castps_pd(high0), _mm512_castps_pd(high1));
    pairs[i + 3] = _mm512_unpackhi_pd(_mm512_castps_pd(high0), _mm512_castps_pd(high1));
  }
  // pairs[4b + j], 128-bit lane l: column 4l + j of rows 4b … 4b + 3.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512d even01 = _mm512_shuffle_f64x2(pairs[j], pairs[4 + j], 0x88);
    const __m512d odd01 = _mm512_shuffle_f64x2(pairs[j], pairs[4 + j], 0xdd);
    const __m512d even23 = _mm512_shuffle_f64x2(pairs[8 + j], pairs[12 + j], 0x88);
    const __m512d odd23 = _mm512_shuffle_f64x2(pairs[8 + j], pairs[12 + j], 0xdd);
    rows[j] = _mm512_castpd_ps(_mm512_shuffle_f64x2(even01, even23, 0x88));
    rows[4 + j] = _mm512_castpd_ps(_mm512_shuffle_f64x2(odd01, odd23, 0x88));
    rows[8 + j] = _mm512_castpd_ps(_mm512_shuffle_f64x2(even01, even23, 0xdd));
    rows[12 + j] = _mm512_castpd_ps(_mm512_shuffle_f64x2(odd01, odd23, 0xdd));
  }
}

#elif defined(OMNI_ID_ISA_AVX2)

OMNI_ID_INLINE void transpose(Vector (&rows)[8]) {
  Vector quads[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    const __m256d low0 = _mm256_castps_pd(_mm256_unpacklo_ps(rows[i], rows[i + 1]));
    const __m256d high0 = _mm256_castps_pd(_mm256_unpackhi_ps(rows[i], rows[i + 1]));
    const __m256d low1 = _mm256_castps_pd(_mm256_unpacklo_ps(rows[i + 2], rows[i + 3]));
    const __m256d high1 = _mm256_castps_pd(_mm256_unpackhi_ps(rows[i + 2], rows[i + 3]));
    quads[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(low0, low1));
    quads[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low0, low1));
    quads[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high0, high1));
    quads[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high0, high1));
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    rows[j] = _mm256_permute2f128_ps(quads[j], quads[4 + j], 0x20);
    rows[4 + j] = _mm256_permute2f128_ps(quads[j], quads[4 + j], 0x31);
  }
}

#elif defined(OMNI_ID_VECTOR_NEON)

OMNI_ID_INLINE void transpose(Vector (&rows)[4]) {
  const float64x2_t even01 = vreinterpretq_f64_f32(vtrn1q_f32(rows[0], rows[1]));
  const float64x2_t odd01 = vreinterpretq_f64_f32(vtrn2q_f32(rows[0], rows[1]));
  const float64x2_t even23 = vreinterpretq_f64_f32(vtrn1q_f32(rows[2], rows[3]));
  const float64x2_t odd23 = vreinterpretq_f64_f32(vtrn2q_f32(rows[2], rows[3]));
  rows[0] = vreinterpretq_f32_f64(vtrn1q_f64(even01, even23));
  rows[1] = vreinterpretq_f32_f64(vtrn1q_f64(odd01, odd23));
  rows[2] = vreinterpretq_f32_f64(vtrn2q_f64(even01, even23));
  rows[3] = vreinterpretq_f32_f64(vtrn2q_f64(odd01, odd23));
}

#else

OMNI_ID_INLINE void transpose(Vector (&rows)[4]) {
  Vector turned[4];
  for (int j = 0; j < 4; ++j) turned[j] = (Vector){rows[0][j], rows[1][j], rows[2][j], rows[3][j]};
  for (int j = 0; j < 4; ++j) rows[j] = turned[j];
}

#endif

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE
