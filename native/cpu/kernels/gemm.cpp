// GEMM with a fused epilogue: out = gate ⊙ activation(a · Wᵀ + bias) + residual, see `Gemm` in kernels.h.
//
// Strategy: a block is up to a few hundred rows by a few panels of 32 columns. k is cut into even pieces of at most kDepth, so
// that a panel's piece stays in the nearest caches while all rows of the block pass over it; the panel that comes next is
// fetched meanwhile. Partial sums are kept in f32 in `scratch` (second-level cache); the last piece of a tile is followed by
// its epilogue, the only time that `out` is touched. A transposed left
// operand is brought into blocks of the tile's rows, a piece at a time, in `scratch` too: the transpose is never written out.
// That is done anew for every block: an element of A is read and written once more for each group of panels, against 64 flops
// of it a panel, 768 in the groups of 12 that matrix_product.cpp makes. Instruction sets without
// bfloat16 dot products convert the pieces of A and W to f32 on the way and use the f32 tile. The cut of k depends on nothing
// but k, so the order of every sum is fixed. Cost: 2·m·n·k flops; W is read once per row block, A once per panel group, both
// from cache for the shapes of ViTs.
#include "cpu/kernels/gemm_tile.h"
#include "cpu/kernels/pack.h"

namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

void convert_to_bf16(const float* from, int64_t count, uint16_t* to);

namespace {

// A panel's piece of 32 × kDepth is 40 KiB in bf16 and 80 KiB in f32. It may be larger than the first-level cache: two vectors
// of it a step, read in order, come from the second level in time. Shorter pieces load and store the partial sums more often:
// 256 was 3 to 8 % slower at ViT-H's shapes, 1280 no faster.
constexpr int64_t kDepth = 640;
constexpr int64_t kLine = 64;  // bytes of a cache line

// Rows of a transposed A that are brought into blocks together: some blocks of the tile, and whole vectors.
constexpr int64_t kBlockGroup = 4 * kTileRows;
static_assert(kBlockGroup % kWidth == 0, "a group of blocks is made of whole vectors");

OMNI_ID_INLINE bool computes_in_bf16(const Gemm* g) { return kNativeBf16 && g->weight_type == kBf16; }

// A must be converted when its type is not what the tile reads; an odd k in bf16 too, because the last pair would read past it.
OMNI_ID_INLINE bool converts_a(const Gemm* g) {
  if (g->a_transposed) return false;
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
  if (converts_a(g) || g->a_transposed) {
    at += aligned((size_t)(divide_up(rows, kBlockGroup) * kBlockGroup * kDepth) * (computes_in_bf16(g) ? 2 : 4));
  }
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

// Rows [begin, end) of a transposed A, columns [first, first + depth), as blocks [rows / kTileRows][steps][kTileRows] of words,
// zeros for rows past the last. Where the tile multiplies floats for bfloat16, they are rounded to it.
template <typename T>
void pack_transposed(const Gemm* g, int64_t begin, int64_t end, int64_t first, int64_t depth, T* to) {
  constexpr bool kPairs = sizeof(T) == 2;
  constexpr int64_t kPair = kPairs ? 2 : 1;
  const bool round = !kPairs && g->weight_type == kBf16;
  const int64_t steps = divide_up(depth, kPair);
  for (int64_t group = begin; group < end; group += kBlockGroup) {
    float* blocks = (float*)to + (group - begin) * steps;
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t k = first + step * kPair;
      float row[kBlockGroup];
      for (int64_t i = 0; i < kBlockGroup; i += kWidth) {
        Vector words =
            words_across<kPairs>(g->a, g->a_type, k * g->a_stride + group + i, g->a_stride, k + 1 < g->k, end - group - i);
        if (round) {
          uint16_t rounded[kWidth];
          store_bf16(rounded, words);
          words = load_bf16(rounded);
        }
        store(row + i, words);
      }
      for (int64_t block = 0; block < kBlockGroup / kTileRows; ++block) {
        __builtin_memcpy(blocks + (block * steps + step) * kTileRows, row + block * kTileRows, kTileRows * sizeof(float));
      }
    }
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

// Where row i of the product is written, and which row is added to it.
OMNI_ID_INLINE int64_t out_row_of(const Gemm* g, int64_t i) {
  return g->out_group ? i / g->out_group * (g->out_group + g->out_skip) + g->out_skip + i % g->out_group : i;
}
OMNI_ID_INLINE int64_t residual_row_of(const Gemm* g, int64_t out_row) {
  return g->residual_period ? out_row % g->residual_period : out_row;
}

// Fetches `columns` elements from `first` on of a row.
template <int kToWrite>
OMNI_ID_INLINE void fetch(const void* matrix, int64_t row, int64_t stride, int64_t bytes_each, int64_t first, int64_t columns) {
  const char* begin = (const char*)matrix + (row * stride + first) * bytes_each;
  for (int64_t byte = 0; byte < columns * bytes_each; byte += kLine) __builtin_prefetch(begin + byte, kToWrite, 3);
}

// Fetches what the epilogue of a tile will read and write, while the tile is being multiplied: its rows lie a line or two
// each in pages of their own, where no hardware prefetcher finds them.
OMNI_ID_INLINE void fetch_epilogue(const Gemm* g, int64_t row_begin, int64_t rows, int64_t first, int64_t columns) {
  const int64_t out_bytes = g->out_type == kBf16 ? 2 : 4;
  for (int64_t i = row_begin; i < row_begin + rows; ++i) {
    const int64_t row = out_row_of(g, i);
    if (g->residual) fetch<0>(g->residual, residual_row_of(g, row), g->residual_stride, 4, first, columns);
    if (g->derivative_at)
      fetch<0>(g->derivative_at, row, g->derivative_stride, g->derivative_type == kBf16 ? 2 : 4, first, columns);
    if (g->kept) fetch<1>(g->kept, row, g->kept_stride, out_bytes, first, columns);
    fetch<1>(g->out, row, g->out_stride, out_bytes, first, columns);
  }
}

// The epilogue of one tile, right after its last piece of k, while its sums lie in the first-level cache.
template <Activation kActivation, bool kToBf16, bool kDerivative>
void finish_tile(const Gemm* g, const float* sums, int64_t sums_stride, int64_t row_begin, int64_t rows, int64_t first,
                 int64_t columns) {
  const float* gate = g->gate ? g->gate + row_begin / g->gate_rows * g->gate_stride + first : nullptr;
  int64_t gated = gate ? g->gate_rows - row_begin % g->gate_rows : 0;  // rows that are left for it
  for (int64_t i = 0; i < rows; ++i, sums += sums_stride) {
    const int64_t row = out_row_of(g, row_begin + i), residual_row = residual_row_of(g, row);
    const float* bias = g->bias ? g->bias + first : nullptr;
    if (gate && gated-- == 0) {
      gate += g->gate_stride;
      gated = g->gate_rows - 1;
    }
    const float* residual = g->residual ? g->residual + residual_row * g->residual_stride + first : nullptr;
    const int64_t out = row * g->out_stride + first;
    for (int64_t j = 0; j < columns; j += kWidth) {
      const int64_t n = smaller(kWidth, columns - j);
      const bool whole = n == kWidth;
      Vector x = load(sums + j);
      if (bias) x = add(x, whole ? load(bias + j) : load_n(bias + j, n));
      if (g->kept) store_any(g->kept, g->out_type, row * g->kept_stride + first + j, x, n);
      if constexpr (kDerivative) {
        const int64_t at = row * g->derivative_stride + first + j;
        x = multiply(x, derivative_of<kActivation, kToBf16>(load_any(g->derivative_at, g->derivative_type, at, n)));
      } else {
        x = activated<kActivation, kToBf16>(x);
      }
      if (gate) x = multiply(x, whole ? load(gate + j) : load_n(gate + j, n));
      if (residual) x = add(x, whole ? load(residual + j) : load_n(residual + j, n));
      store_any(g->out, kToBf16 ? kBf16 : kF32, out + j, x, n);
    }
  }
}

typedef void (*FinishTile)(const Gemm*, const float*, int64_t, int64_t, int64_t, int64_t, int64_t);

template <Activation kActivation>
FinishTile finish_tile_with(const Gemm* g) {
  const bool bf16 = g->out_type == kBf16;
  if constexpr (kActivation != kNoActivation) {
    if (g->derivative_at) return bf16 ? finish_tile<kActivation, true, true> : finish_tile<kActivation, false, true>;
  }
  return bf16 ? finish_tile<kActivation, true, false> : finish_tile<kActivation, false, false>;
}

FinishTile finish_tile_of(const Gemm* g) {
  switch (g->activation) {
    case kGelu:
      return finish_tile_with<kGelu>(g);
    case kQuickGelu:
      return finish_tile_with<kQuickGelu>(g);
    case kNoActivation:
      break;
  }
  return finish_tile_with<kNoActivation>(g);
}

OMNI_ID_INLINE int64_t weight_bytes(const Gemm* g) { return g->weight_type == kBf16 ? 2 : 4; }

// Panel p from element `first` of k on.
OMNI_ID_INLINE const char* panel_piece(const Gemm* g, int64_t p, int64_t first) {
  const int64_t depth = g->weight_type == kBf16 ? divide_up(g->k, 2) * 2 : g->k;
  return (const char*)g->weight + (p * depth + first) * kPanelColumns * weight_bytes(g);
}

template <typename T>
void multiply_piece(const Gemm* g, const Scratch* s, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end,
                    int64_t first, int64_t depth) {
  constexpr int64_t kPerStep = 4 / sizeof(T);  // elements of k that one step of the tile takes
  const int64_t rows = row_end - row_begin;
  const int64_t sums_stride = (panel_end - panel_begin) * kPanelColumns;
  const int64_t steps = divide_up(depth, kPerStep);
  const bool last_piece = first + depth >= g->k;
  const FinishTile finish = finish_tile_of(g);
  const bool convert = converts_a(g);
  if (convert) convert_a(g, row_begin, row_end, first, depth, s->a);
  const T* a = convert ? (const T*)s->a : (const T*)g->a + row_begin * g->a_stride + first;
  const int64_t a_stride = convert ? (int64_t)kDepth : g->a_stride;
  if (g->a_transposed) pack_transposed<T>(g, row_begin, row_end, first, depth, (T*)s->a);

  for (int64_t p = panel_begin; p < panel_end; ++p) {
    const int64_t columns = smaller(kPanelColumns, g->n - p * kPanelColumns);
    const void* piece = panel_piece(g, p, first);
    const T* panel = (const T*)piece;
    if (sizeof(T) == 4 && g->weight_type == kBf16) {
      unpack_panel((const uint16_t*)piece, depth, s->unpacked);
      panel = (const T*)s->unpacked;
    }
    // What is multiplied next: this piece of the next panel, or the next piece of the first one.
    const bool last_panel = p + 1 == panel_end;
    const int64_t ahead_bytes = last_panel && last_piece ? 0 : depth * kPanelColumns * weight_bytes(g);
    const char* ahead = last_panel ? panel_piece(g, panel_begin, first + depth) : panel_piece(g, p + 1, first);
    const int64_t ahead_step = divide_up(divide_up(ahead_bytes, kLine), divide_up(rows, kTileRows)) * kLine;
    int64_t fetched = 0;

    for (int64_t row = 0; row < rows; row += kTileRows) {
      const int64_t until = smaller(ahead_bytes, fetched + ahead_step);
      for (; fetched < until; fetched += kLine) __builtin_prefetch(ahead + fetched, 0, 2);
      const int64_t tile_rows = smaller(kTileRows, rows - row);
      float* sums = s->sums + row * sums_stride + (p - panel_begin) * kPanelColumns;
      if (last_piece) fetch_epilogue(g, row_begin + row, tile_rows, p * kPanelColumns, columns);
      if (g->a_transposed) {
        const T* block = (const T*)s->a + row * steps * kPerStep;
        tile<T, true>(tile_rows, columns, block, kTileRows, panel, steps, sums, sums_stride, first > 0);
      } else {
        tile<T>(tile_rows, columns, a + row * a_stride, a_stride, panel, steps, sums, sums_stride, first > 0);
      }
      if (last_piece) finish(g, sums, sums_stride, row_begin + row, tile_rows, p * kPanelColumns, columns);
    }
  }
}

}  // namespace

size_t gemm_scratch_bytes(const Gemm* g, int64_t rows, int64_t panels) { return lay_out(g, rows, panels, nullptr).bytes; }

void gemm_block(const Gemm* g, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end, void* scratch) {
  const Scratch s = lay_out(g, row_end - row_begin, panel_end - panel_begin, scratch);
  // Even pieces, of whole pairs.
  const int64_t piece = divide_up(divide_up(g->k, divide_up(g->k, kDepth)), 2) * 2;
  for (int64_t first = 0; first < g->k; first += piece) {
    const int64_t depth = smaller(piece, g->k - first);
    if (computes_in_bf16(g)) {
      if constexpr (kNativeBf16) {
        multiply_piece<uint16_t>(g, &s, row_begin, row_end, panel_begin, panel_end, first, depth);
      }
    } else {
      multiply_piece<float>(g, &s, row_begin, row_end, panel_begin, panel_end, first, depth);
    }
  }
}

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE
