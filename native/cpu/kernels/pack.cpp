// Packing of the right operand of a product that is no weight: activations, and parameters, which change at every step. See
// `PackPanels` in kernels.h.
//
// Strategy: what lies in memory with k along the rows is turned in squares of kWidth × kWidth words in registers; what lies
// with k down the columns is copied, in bfloat16 two rows interleaved, so that neither the transposed weight of a forward pass
// nor the transposed operands of its gradients are ever written out as such. A word is a float, or a pair of bfloat16 that lie
// behind each other in k. Packing reads an operand once and writes it once for a product that reads it m or n times: 3 to 10 %
// of the product's time for the shapes of a training step.
#include "cpu/kernels/pack.h"
#include "cpu/kernels/transpose.h"

namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

namespace {

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

}  // namespace

void pack_panels(const PackPanels* g, int64_t panel_begin, int64_t panel_end) {
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    g->to_type == kBf16 ? pack_panel<true>(g, panel) : pack_panel<false>(g, panel);
  }
}

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE
