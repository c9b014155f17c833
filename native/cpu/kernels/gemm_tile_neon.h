#pragma once

#include "cpu/kernels/simd.h"

// The tile of gemm_tile.h on NEON, for f32 and, with BFDOT, for bfloat16 pairs.
//
// Strategy: NEON multiplies by one lane of a register, so that A needs no broadcast: a vector holds four steps of a row of A,
// and a step loads nothing but the panel. Of the 32 registers 6 × 4 are accumulators, 6 hold A and 2 the panel: 22 loads for 96
// multiply-adds in four steps. 12 × 2 would take 20 loads but 38 registers, 8 × 2 takes 16 for 64, and 6 divides kRowGranule.
// 24 chains keep four units with a latency of four cycles busy. BFDOT multiplies two pairs a lane, as VDPBF16PS does, and takes
// A's pair by its lane: the same loop with pairs for elements. (BFMMLA does twice the work, but wants four steps of two columns
// side by side, which is not how panels are packed.)
// Rows, vectors and lanes are template arguments, and GCC is kept from moving loads up (-fno-schedule-insns in CMakeLists.txt):
// with loops to unroll, or with that pass, GCC 12 keeps some of the accumulators on the stack.
namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

OMNI_ID_INLINE float32x4_t load_lanes(const float* p) { return vld1q_f32(p); }
OMNI_ID_INLINE float32x4_t load_one(const float* p) { return vdupq_n_f32(*p); }
template <int kLane>
OMNI_ID_INLINE Vector multiply_lane(Vector sum, float32x4_t b, float32x4_t a) {
  return vfmaq_laneq_f32(sum, b, a, kLane);
}

#if defined(OMNI_ID_ISA_NEONBF16)
OMNI_ID_INLINE bfloat16x8_t load_lanes(const uint16_t* p) { return vreinterpretq_bf16_u16(vld1q_u16(p)); }
OMNI_ID_INLINE bfloat16x8_t load_one(const uint16_t* p) {
  uint32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return vreinterpretq_bf16_u32(vdupq_n_u32(pair));
}
template <int kLane>
OMNI_ID_INLINE Vector multiply_lane(Vector sum, bfloat16x8_t b, bfloat16x8_t a) {
  return vbfdotq_laneq_f32(sum, b, a, kLane);
}
#endif

// One vector of the panel times lane kLane of every row.
template <int kLane, int kVector, int kRow = 0, typename Lanes, int kRows, int kVectors>
OMNI_ID_INLINE void add_to_rows(const Lanes (&a)[kRows], Lanes b, Vector (&sum)[kRows][kVectors]) {
  sum[kRow][kVector] = multiply_lane<kLane>(sum[kRow][kVector], b, a[kRow]);
  if constexpr (kRow + 1 < kRows) add_to_rows<kLane, kVector, kRow + 1>(a, b, sum);
}

// One step: row kLane of `panel`, in as many vectors as the tile is wide.
template <int kLane, int kVector = 0, typename T, typename Lanes, int kRows, int kVectors>
OMNI_ID_INLINE void add_step(const Lanes (&a)[kRows], const T* panel, Vector (&sum)[kRows][kVectors]) {
  constexpr int64_t kPerLane = 4 / sizeof(T);
  add_to_rows<kLane, kVector>(a, load_lanes(panel + kPerLane * (kLane * kPanelColumns + kVector * kWidth)), sum);
  if constexpr (kVector + 1 < kVectors) add_step<kLane, kVector + 1>(a, panel, sum);
}

// T is float, or uint16_t for pairs, which `k` counts then.
template <typename T, int kRows, int kVectors, bool kPacked>
static void tile_neon(const T* a, int64_t a_stride, const T* panel, int64_t k, float* c, int64_t c_stride, bool accumulate) {
  constexpr int64_t kPerLane = 4 / sizeof(T);
  Vector sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[row][v] = accumulate ? load(c + row * c_stride + v * kWidth) : splat(0.0f);
  }
  decltype(load_lanes(a)) x[kRows];
  int64_t step = 0;
  for (; !kPacked && step + kWidth <= k; step += kWidth) {
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) x[row] = load_lanes(a + row * a_stride + kPerLane * step);
    const T* steps = panel + kPerLane * step * kPanelColumns;
    add_step<0>(x, steps, sum);
    add_step<1>(x, steps, sum);
    add_step<2>(x, steps, sum);
    add_step<3>(x, steps, sum);
  }
  for (; step < k; ++step) {
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      x[row] = load_one(a + (kPacked ? kPerLane * (step * kTileRows + row) : row * a_stride + kPerLane * step));
    }
    add_step<0>(x, panel + kPerLane * step * kPanelColumns, sum);
  }
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store(c + row * c_stride + v * kWidth, sum[row][v]);
  }
}

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE
