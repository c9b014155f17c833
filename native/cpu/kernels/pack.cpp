// Packing of the operands of a product that are no weights: activations, gradients, and parameters, which change at every step.
// See `PackPanels` and `PackTransposed` in kernels.h.
//
// Strategy: what lies in memory with k along the rows is turned in squares of kWidth × kWidth words in registers; what lies
// with k down the columns is copied, in bfloat16 two rows interleaved, so that neither the transposed weight of a forward pass
// nor the transposed operands of its gradients are ever written out as such. A word is a float, or a pair of bfloat16 that lie
// behind each other in k. Packing reads an operand once and writes it once for a product that reads it m or n times: 3 to 10 %
// of the product's time for the shapes of a training step.
#include "cpu/kernels/gemm_tile.h"
#include "cpu/kernels/transpose.h"

namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

namespace {

// Blocks of pack_transposed that are filled together: whole vectors of a row.
constexpr int64_t kBlocksPerGroup = 4;
constexpr int64_t kGroupRows = kBlocksPerGroup * kTileRows;
static_assert(kGroupRows % kWidth == 0, "a group of blocks is made of whole vectors");

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

template <bool kPairs, Activation kActivation>
void pack_rows(const PackPanels* g, int64_t panel) {
  constexpr int64_t kPair = kPairs ? 2 : 1;
  const int64_t steps = divide_up(g->k, kPair), first = panel * kPanelColumns;
  float* to = (float*)g->to + panel * steps * kPanelColumns;
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t k = step * kPair;
    for (int64_t j = 0; j < kPanelColumns; j += kWidth) {
      store(to + step * kPanelColumns + j, words_across<kPairs, kActivation>(g->from, g->from_type, k * g->stride + first + j,
                                                                             g->stride, k + 1 < g->k, g->n - first - j));
    }
  }
}

template <bool kPairs>
void pack_columns(const PackPanels* g, int64_t panel) {
  constexpr int64_t kPair = kPairs ? 2 : 1;
  const int64_t steps = divide_up(g->k, kPair), first = panel * kPanelColumns;
  float* to = (float*)g->to + panel * steps * kPanelColumns;
  for (int64_t j = 0; j < kPanelColumns; j += kWidth) {
    for (int64_t step = 0; step < steps; step += kWidth) {
      Vector square[kWidth];
#pragma GCC unroll 16
      for (int64_t i = 0; i < kWidth; ++i) {
        const int64_t column = first + j + i, k = step * kPair;
        square[i] = column < g->n ? words_along<kPairs>(g->from, g->from_type, column * g->stride + k, g->k - k) : splat(0.0f);
      }
      transpose(square);
      const int64_t count = smaller(kWidth, steps - step);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kWidth; ++i) {
        if (i < count) store(to + (step + i) * kPanelColumns + j, square[i]);
      }
    }
  }
}

template <bool kPairs>
void pack_panel(const PackPanels* g, int64_t panel) {
  if (g->transposed) return pack_columns<kPairs>(g, panel);
  switch (g->activation) {
    case kGelu:
      return pack_rows<kPairs, kGelu>(g, panel);
    case kQuickGelu:
      return pack_rows<kPairs, kQuickGelu>(g, panel);
    case kNoActivation:
      return pack_rows<kPairs, kNoActivation>(g, panel);
  }
}

// kPairs: the tile multiplies pairs. Otherwise kRound rounds to bfloat16 what the tile multiplies as floats.
template <bool kPairs, bool kRound>
void pack_group(const PackTransposed* g, int64_t group) {
  constexpr int64_t kPair = kPairs ? 2 : 1;
  const int64_t steps = divide_up(g->k, kPair), first = group * kGroupRows;
  const int64_t blocks = smaller(kBlocksPerGroup, divide_up(g->m - first, kTileRows));
  float* to = (float*)g->to + first * steps;
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t k = step * kPair;
    float row[kGroupRows + kWidth];
    for (int64_t i = 0; i < kGroupRows; i += kWidth) {
      Vector words =
          words_across<kPairs>(g->from, g->from_type, k * g->stride + first + i, g->stride, k + 1 < g->k, g->m - first - i);
      if constexpr (kRound) {
        uint16_t rounded[kWidth];
        store_bf16(rounded, words);
        words = load_bf16(rounded);
      }
      store(row + i, words);
    }
    for (int64_t block = 0; block < blocks; ++block) {
      __builtin_memcpy(to + (block * steps + step) * kTileRows, row + block * kTileRows, kTileRows * sizeof(float));
    }
  }
}

}  // namespace

void pack_panels(const PackPanels* g, int64_t panel_begin, int64_t panel_end) {
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    g->to_type == kBf16 ? pack_panel<true>(g, panel) : pack_panel<false>(g, panel);
  }
}

int64_t packed_rows_per_group() { return kGroupRows; }

size_t packed_transposed_bytes(const PackTransposed* g) {
  const int64_t steps = kNativeBf16 && g->type == kBf16 ? divide_up(g->k, 2) : g->k;
  return (size_t)(divide_up(g->m, kTileRows) * kTileRows * steps) * sizeof(float);
}

void pack_transposed(const PackTransposed* g, int64_t group_begin, int64_t group_end) {
  for (int64_t group = group_begin; group < group_end; ++group) {
    if (g->type == kF32) {
      pack_group<false, false>(g, group);
    } else if constexpr (kNativeBf16) {
      pack_group<true, false>(g, group);
    } else {
      pack_group<false, true>(g, group);
    }
  }
}

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE
