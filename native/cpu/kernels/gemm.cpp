// GEMM with a fused epilogue: out = activation(a · Wᵀ + bias) + residual, see `Gemm` in kernels.h.
//
// Strategy: a block is up to a few hundred rows by a few panels of 32 columns. k is cut into pieces of kDepth so that a panel's
// piece stays in the first-level cache while all rows of the block pass over it; partial sums are kept in f32 in `scratch`
// (second-level cache), and the last step runs the epilogue over whole rows of the block, the only time that `out` is touched.
// Instruction sets without bfloat16 dot products convert the pieces of A and W to f32 on the way and use the f32 tile.
// The cut of k depends on nothing but the type, so the order of every sum is fixed.
// Cost: 2·m·n·k flops; W is read once per row block, A once per panel group, both from cache for the shapes of ViTs.
#include "cpu/kernels/gemm_tile.h"

namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

namespace {

// A panel piece of 32 × kDepth is 16 KiB in bf16 and 32 KiB in f32, the half or all of a first-level cache.
constexpr int64_t kDepth = 256;

#if defined(OMNI_ID_NATIVE_BF16)
constexpr bool kNativeBf16 = true;
#else
constexpr bool kNativeBf16 = false;
#endif

OMNI_ID_INLINE size_t aligned(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

OMNI_ID_INLINE bool computes_in_bf16(const Gemm* g) { return kNativeBf16 && g->weight_type == kBf16; }

// A must be converted when its type is not what the tile reads; an odd k in bf16 too, because the last pair would read past it.
OMNI_ID_INLINE bool converts_a(const Gemm* g) {
  if (computes_in_bf16(g)) return g->a_type != kBf16 || (g->k & 1);
  return g->a_type != kF32;
}

struct Scratch {
  float* sums;      // [rows][panels · 32]
  void* a;          // [rows][kDepth] of the tile's type
  float* unpacked;  // [kDepth][32]
  size_t bytes;
};

Scratch lay_out(const Gemm* g, int64_t rows, int64_t panels, void* base) {
  char* start = (char*)base;
  Scratch s;
  size_t at = 0;
  s.sums = (float*)(start + at);
  at += aligned((size_t)(rows * panels * kPanelColumns) * sizeof(float));
  s.a = start + at;
  if (converts_a(g)) at += aligned((size_t)rows * kDepth * (computes_in_bf16(g) ? 2 : 4));
  s.unpacked = (float*)(start + at);
  if (!kNativeBf16 && g->weight_type == kBf16) at += aligned(kDepth * kPanelColumns * sizeof(float));
  s.bytes = at;
  return s;
}

void convert_to_f32(const uint16_t* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(to + i, load_bf16(from + i));
  for (; i < n; ++i) to[i] = float_of((uint32_t)from[i] << 16);
}

void convert_to_bf16(const float* from, int64_t n, uint16_t* to) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store_bf16(to + i, load(from + i));
  if (i < n) store_bf16_n(to + i, load_n(from + i, n - i), n - i);
}

// Rows [begin, end) of A, columns [first, first + depth), in the tile's type, kDepth elements apart.
void convert_a(const Gemm* g, int64_t begin, int64_t end, int64_t first, int64_t depth, void* to) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t from = row * g->a_stride + first;
    const int64_t into = (row - begin) * kDepth;
    if (!computes_in_bf16(g)) {
      convert_to_f32((const uint16_t*)g->a + from, depth, (float*)to + into);
      continue;
    }
    uint16_t* bf16 = (uint16_t*)to + into;
    if (g->a_type == kBf16) {
      __builtin_memcpy(bf16, (const uint16_t*)g->a + from, (size_t)depth * 2);
    } else {
      convert_to_bf16((const float*)g->a + from, depth, bf16);
    }
    if (depth & 1) bf16[depth] = 0;
  }
}

// bf16 panel[depth/2][32][2] → f32 panel[depth][32].
void unpack_panel(const uint16_t* from, int64_t depth, float* to) {
  for (int64_t k = 0; k < depth; ++k) {
    const uint16_t* pairs = from + (k / 2) * 2 * kPanelColumns + (k & 1);
    for (int64_t column = 0; column < kPanelColumns; ++column) {
      to[k * kPanelColumns + column] = float_of((uint32_t)pairs[2 * column] << 16);
    }
  }
}

template <Activation kActivation>
OMNI_ID_INLINE Vector activated(Vector x) {
  if constexpr (kActivation == kGelu) return gelu(x);
  if constexpr (kActivation == kQuickGelu) return quick_gelu(x);
  return x;
}

template <Activation kActivation>
void epilogue_row(const Gemm* g, const float* sums, int64_t row, int64_t first, int64_t columns) {
  int64_t out_row = row;
  if (g->out_group) out_row = row / g->out_group * (g->out_group + g->out_skip) + g->out_skip + row % g->out_group;
  const int64_t residual_row = g->residual_period ? out_row % g->residual_period : out_row;
  const float* bias = g->bias ? g->bias + first : nullptr;
  const float* residual = g->residual ? g->residual + residual_row * g->residual_stride + first : nullptr;
  const int64_t out_at = out_row * g->out_stride + first;
  for (int64_t i = 0; i < columns; i += kWidth) {
    const int64_t n = smaller(kWidth, columns - i);
    Vector x = load(sums + i);
    if (n == kWidth) {
      if (bias) x = add(x, load(bias + i));
      x = activated<kActivation>(x);
      if (residual) x = add(x, load(residual + i));
      if (g->out_type == kBf16) {
        store_bf16((uint16_t*)g->out + out_at + i, x);
      } else {
        store((float*)g->out + out_at + i, x);
      }
    } else {
      if (bias) x = add(x, load_n(bias + i, n));
      x = activated<kActivation>(x);
      if (residual) x = add(x, load_n(residual + i, n));
      if (g->out_type == kBf16) {
        store_bf16_n((uint16_t*)g->out + out_at + i, x, n);
      } else {
        store_n((float*)g->out + out_at + i, x, n);
      }
    }
  }
}

template <typename T>
void multiply_piece(const Gemm* g, const Scratch* s, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end,
                    int64_t first, int64_t depth) {
  constexpr int64_t kPerStep = 4 / sizeof(T);  // elements of k that one step of the tile takes
  const int64_t rows = row_end - row_begin;
  const int64_t sums_stride = (panel_end - panel_begin) * kPanelColumns;
  const int64_t steps = divide_up(depth, kPerStep);
  const bool convert = converts_a(g);
  if (convert) convert_a(g, row_begin, row_end, first, depth, s->a);
  const T* a = convert ? (const T*)s->a : (const T*)g->a + row_begin * g->a_stride + first;
  const int64_t a_stride = convert ? (int64_t)kDepth : g->a_stride;

  for (int64_t p = panel_begin; p < panel_end; ++p) {
    const int64_t columns = smaller(kPanelColumns, g->n - p * kPanelColumns);
    const T* panel;
    if (sizeof(T) == 4 && g->weight_type == kBf16) {
      const int64_t panel_elements = divide_up(g->k, 2) * 2 * kPanelColumns;
      unpack_panel((const uint16_t*)g->weight + p * panel_elements + first * kPanelColumns, depth, s->unpacked);
      panel = (const T*)s->unpacked;
    } else {
      const int64_t panel_elements = divide_up(g->k, kPerStep) * kPerStep * kPanelColumns;
      panel = (const T*)g->weight + p * panel_elements + first * kPanelColumns;
    }
    float* sums = s->sums + (p - panel_begin) * kPanelColumns;
    for (int64_t row = 0; row < rows; row += kTileRows) {
      tile<T>(smaller(kTileRows, rows - row), columns, a + row * a_stride, a_stride, panel, steps, sums + row * sums_stride,
              sums_stride, first > 0);
    }
  }
}

}  // namespace

size_t gemm_scratch_bytes(const Gemm* g, int64_t rows, int64_t panels) { return lay_out(g, rows, panels, nullptr).bytes; }

void gemm_block(const Gemm* g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end, void* scratch) {
  const Scratch s = lay_out(g, row_end - row_begin, panel_end - panel_begin, scratch);
  for (int64_t first = 0; first < g->k; first += kDepth) {
    const int64_t depth = smaller(kDepth, g->k - first);
    if (computes_in_bf16(g)) {
      if constexpr (kNativeBf16) {
        multiply_piece<uint16_t>(g, &s, row_begin, row_end, panel_begin, panel_end, first, depth);
      }
    } else {
      multiply_piece<float>(g, &s, row_begin, row_end, panel_begin, panel_end, first, depth);
    }
  }
  const int64_t column = panel_begin * kPanelColumns;
  const int64_t columns = smaller(panel_end * kPanelColumns, g->n) - column;
  for (int64_t row = row_begin; row < row_end; ++row) {
    const float* sums = s.sums + (row - row_begin) * (panel_end - panel_begin) * kPanelColumns;
    switch (g->activation) {
      case kNoActivation:
        epilogue_row<kNoActivation>(g, sums, row, column, columns);
        break;
      case kGelu:
        epilogue_row<kGelu>(g, sums, row, column, columns);
        break;
      case kQuickGelu:
        epilogue_row<kQuickGelu>(g, sums, row, column, columns);
        break;
    }
  }
}

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE
