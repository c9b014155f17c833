#pragma once

#include "cpu/kernels/simd.h"

// The innermost loop of every matrix product: a tile of C in registers, C[rows][columns] (+)= A[rows][k] · panel[k][32].
//
// Strategy: outer products. A is read in place, one broadcast element (or bfloat16 pair) per row and step, so that it needs no
// packing; the panel is packed so that a step reads consecutive vectors. kTileRows × kTileVectors accumulators plus the panel's
// vectors fill the registers: 12 × 2 of 32 on AVX-512, 6 × 2 of 16 on AVX2, and on the baseline 4 × 2 of 16. NEON has a tile of
// its own, 6 × 4 of 32, in gemm_tile_neon.h.
// Per step and tile: kTileRows broadcasts and kTileVectors loads for kTileRows · kTileVectors multiply-adds.
// Each element of C is summed over k in one order, whatever the tile's shape: results do not depend on how rows are shared.
namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

#if defined(OMNI_ID_VECTOR_512)
constexpr int64_t kTileRows = 12, kTileVectors = 2;
#elif defined(OMNI_ID_ISA_AVX2)
constexpr int64_t kTileRows = 6, kTileVectors = 2;
#elif defined(OMNI_ID_VECTOR_NEON)
constexpr int64_t kTileRows = 6, kTileVectors = 4;
#else
constexpr int64_t kTileRows = 4, kTileVectors = 2;
#endif
constexpr int64_t kTileColumns = kTileVectors * kWidth;

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE

#if defined(OMNI_ID_VECTOR_NEON)
#include "cpu/kernels/gemm_tile_neon.h"
#endif

namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

template <int kRows, int kVectors, bool kPacked>
static void tile_f32(const float* a, int64_t a_stride, const float* panel, int64_t k, float* c, int64_t c_stride,
                     bool accumulate) {
  Vector sum[kRows][kVectors];
  for (int row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) sum[row][v] = accumulate ? load(c + row * c_stride + v * kWidth) : splat(0.0f);
  }
  for (int64_t step = 0; step < k; ++step) {
    Vector b[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) b[v] = load(panel + step * kPanelColumns + v * kWidth);
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      const Vector x = splat(kPacked ? a[step * kTileRows + row] : a[row * a_stride + step]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[row][v] = multiply_add(x, b[v], sum[row][v]);
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) store(c + row * c_stride + v * kWidth, sum[row][v]);
  }
}

#if defined(OMNI_ID_ISA_AVX512BF16)
// VDPBF16PS multiplies two pairs a lane: `k` counts pairs, `a` and `panel` hold them as 32-bit words.
template <int kRows, int kVectors, bool kPacked>
static void tile_bf16(const uint16_t* a, int64_t a_stride, const uint16_t* panel, int64_t k, float* c, int64_t c_stride,
                      bool accumulate) {
  Vector sum[kRows][kVectors];
  for (int row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) sum[row][v] = accumulate ? load(c + row * c_stride + v * kWidth) : splat(0.0f);
  }
  for (int64_t step = 0; step < k; ++step) {
    __m512bh b[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      b[v] = (__m512bh)_mm512_loadu_si512(panel + 2 * (step * kPanelColumns + v * kWidth));
    }
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      int32_t pair;
      __builtin_memcpy(&pair, a + (kPacked ? 2 * (step * kTileRows + row) : row * a_stride + 2 * step), sizeof pair);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[row][v] = _mm512_dpbf16_ps(sum[row][v], x, b[v]);
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) store(c + row * c_stride + v * kWidth, sum[row][v]);
  }
}
#endif

// Runs the tile function of exactly `rows` rows: tail tiles waste nothing and read nothing past the last row.
template <typename T, bool kPacked, int kVectors, int kRows = (int)kTileRows>
OMNI_ID_INLINE void tile_of_rows(int64_t rows, const T* a, int64_t a_stride, const T* panel, int64_t k, float* c,
                                 int64_t c_stride, bool accumulate) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      tile_of_rows<T, kPacked, kVectors, kRows - 1>(rows, a, a_stride, panel, k, c, c_stride, accumulate);
      return;
    }
  }
#if defined(OMNI_ID_VECTOR_NEON)
  tile_neon<T, kRows, kVectors, kPacked>(a, a_stride, panel, k, c, c_stride, accumulate);
#else
#if defined(OMNI_ID_ISA_AVX512BF16)
  if constexpr (sizeof(T) == 2) {
    tile_bf16<kRows, kVectors, kPacked>(a, a_stride, panel, k, c, c_stride, accumulate);
    return;
  }
#endif
  if constexpr (sizeof(T) == 4) tile_f32<kRows, kVectors, kPacked>(a, a_stride, panel, k, c, c_stride, accumulate);
#endif
}

// C[rows][columns] (+)= A · panel for rows ≤ kTileRows and columns ≤ 32; whole vectors of C are written, one or kTileVectors at
// a time, at most to the 32nd column. T is float, or uint16_t for bfloat16 pairs (AVX512-BF16 and NEON-BF16, `k` in pairs).
// A's rows lie a_stride apart; with kPacked, A lies in one block, kTileRows elements (pairs) a step.
template <typename T, bool kPacked = false>
OMNI_ID_INLINE void tile(int64_t rows, int64_t columns, const T* a, int64_t a_stride, const T* panel, int64_t k, float* c,
                         int64_t c_stride, bool accumulate) {
  constexpr int64_t kElementsPerLane = 4 / sizeof(T);
  for (int64_t column = 0; column < columns; column += kTileColumns) {
    const T* part = panel + column * kElementsPerLane;
    if (columns - column > kWidth) {
      tile_of_rows<T, kPacked, (int)kTileVectors>(rows, a, a_stride, part, k, c + column, c_stride, accumulate);
    } else {
      tile_of_rows<T, kPacked, 1>(rows, a, a_stride, part, k, c + column, c_stride, accumulate);
    }
  }
}

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE
