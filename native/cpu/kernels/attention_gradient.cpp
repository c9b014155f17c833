// The gradient of one head of one sequence: with scores s = scale · q kᵀ, weights p = exp(s − logsumexp) and the row sums
// D = Σ dout ⊙ out, which stand for Σ_j p_j dp_j of the softmax's gradient,
//   dv = pᵀ dout,   dp = dout vᵀ,   ds = p ⊙ (dp − D),   dk = scale · dsᵀ q,   dq = scale · ds k.
// Layouts: see kernels.h.
//
// Strategy: everything is computed turned, a tile of keys by a panel of queries, since then dv and dk read p and ds as the rows
// that they are made in, and dq, turned itself, reads ds as a packed panel: nothing of the size of the scores is ever
// transposed. Queries are taken in blocks, of which q and dout are packed twice: transposed for s and dp, as rows for dk and
// dv. For every tile of kTileRows keys and panel of 32 queries s and dp are made in a buffer of a few kilobytes, p and ds
// follow at once, and when the tile has met all queries of the block it adds to dv and dk. ds is kept for a block of keys, and
// then adds k · ds to dq. The score matrix is never stored. Sums are f32; where the tile multiplies bf16, p and ds are rounded
// to it. Cost: 10 · queries · keys · head_dim flops and one exponential a score; reads every input once for each block of
// queries (one for up to kQueryBlock) and writes dq, dk and dv once.
//
// dv and dk sum over the queries of the sequence in order, dq over its keys in order, however they are cut into blocks and
// calls: a caller may give some keys for dk and dv, or some queries for dq, and gets the same bits.
#include "cpu/kernels/attention_packing.h"
#include "cpu/kernels/gemm_tile.h"

namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

namespace {

// The 257 tokens of a ViT are one block: 288 queries of 64 are packed in 144 KiB in bf16. Panels of ds for 96 keys are 54 KiB
// more. In f32, and with heads of 80, twice to three times as much still fits the second-level cache.
constexpr int64_t kQueryBlock = 288, kKeyBlock = 96;
static_assert(kKeyBlock % kTileRows == 0 && kTileRows % 2 == 0, "pairs of keys lie in one tile");

// Blocks of equal size, in whole steps.
int64_t block_of(int64_t count, int64_t most, int64_t step) {
  return divide_up(divide_up(count, divide_up(count, most)), step) * step;
}

struct Scratch {
  void *queries, *gradients;         // q and dout: panels [32 queries] of [head_dim][32]
  void *query_rows, *gradient_rows;  // panels [32 dims] of [query][32]
  void* keys_turned;                 // k: [head_dim][turned_stride]
  void *key_tile, *value_tile;       // [kTileRows][padded head_dim], where the tile cannot read them as they lie
  float *scores, *weight_gradients;  // s and dp: [kTileRows][32]
  void *weights, *score_gradients;   // p and ds: [kTileRows][weight_stride]
  void* score_panels;                // ds: panels [32 queries] of [key block][32]
  float *value_sums, *key_sums;      // dv and dk: [keys, or kTileRows for one block of queries][padded head_dim]
  float* query_sums;                 // dq: [head_dim][sum_stride]
  float *shift, *rowsum;             // −logsumexp · log2(e), and D: [query block]
  int64_t query_block, key_block, turned_stride, weight_stride, sum_stride, padded_dim;
  size_t bytes;
};

Scratch lay_out(const AttentionGradient* g, void* base) {
  const size_t element = kNativeBf16 && g->type == kBf16 ? 2 : 4;
  char* start = (char*)base;
  size_t at = 0;
  const auto take = [&](int64_t elements, size_t size) {
    char* place = start + at;
    at += aligned((size_t)elements * size);
    return place;
  };
  Scratch s;
  s.query_block = block_of(g->queries, kQueryBlock, kPanelColumns);
  s.key_block = block_of(g->keys, kKeyBlock, kTileRows);
  s.padded_dim = divide_up(g->head_dim, kPanelColumns) * kPanelColumns;
  s.turned_stride = divide_up(s.key_block, kPanelColumns) * kPanelColumns;
  // One line more than the queries need, so that the rows do not meet in the same sets of the first-level cache.
  s.weight_stride = s.query_block + 64 / (int64_t)element;
  s.sum_stride = s.query_block + 16;
  s.queries = take(s.query_block * s.padded_dim, element);
  s.gradients = take(s.query_block * s.padded_dim, element);
  s.query_rows = take(s.query_block * s.padded_dim, element);
  s.gradient_rows = take(s.query_block * s.padded_dim, element);
  s.keys_turned = take(g->head_dim * s.turned_stride, element);
  s.key_tile = take(kTileRows * s.padded_dim, element);
  s.value_tile = take(kTileRows * s.padded_dim, element);
  s.scores = (float*)take(kTileRows * kPanelColumns, sizeof(float));
  s.weight_gradients = (float*)take(kTileRows * kPanelColumns, sizeof(float));
  s.weights = take(kTileRows * s.weight_stride, element);
  s.score_gradients = take(kTileRows * s.weight_stride, element);
  s.score_panels = take(s.key_block * s.query_block, element);
  const int64_t sum_rows = g->queries > s.query_block ? g->keys : kTileRows;
  s.value_sums = (float*)take(sum_rows * s.padded_dim, sizeof(float));
  s.key_sums = (float*)take(sum_rows * s.padded_dim, sizeof(float));
  s.query_sums = (float*)take(g->head_dim * s.sum_stride, sizeof(float));
  s.shift = (float*)take(s.query_block, sizeof(float));
  s.rowsum = (float*)take(s.query_block, sizeof(float));
  s.bytes = at;
  return s;
}

// `shift` and `rowsum` of a block of queries, zero up to a whole vector: a query that is not there gets finite numbers.
template <typename Source>
void prepare_queries(const AttentionGradient* g, int64_t query, int64_t queries, float* shift, float* rowsum) {
  for (int64_t i = 0; i < divide_up(queries, kWidth) * kWidth; ++i) {
    shift[i] = rowsum[i] = 0.0f;
    if (i >= queries) continue;
    shift[i] = g->logsumexp[(query + i) * g->logsumexp_stride] * -1.44269504f;
    const Source* dout = (const Source*)g->dout + (query + i) * g->dout_stride;
    const Source* out = (const Source*)g->out + (query + i) * g->out_stride;
    Vector sum = splat(0.0f);
    for (int64_t d = 0; d < g->head_dim; d += kWidth) {
      const int64_t n = g->head_dim - d;
      sum = multiply_add(load_words<Source, float>(dout + d, n), load_words<Source, float>(out + d, n), sum);
    }
    rowsum[i] = sum_of(sum);
  }
}

#if defined(OMNI_ID_ISA_AVX512BF16)
OMNI_ID_INLINE void store_pairs(uint16_t* to, Vector first, Vector second) {
  const __m512i low = _mm512_cvtepu16_epi32(to_bf16(first)), high = _mm512_cvtepu16_epi32(to_bf16(second));
  _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}
#elif defined(OMNI_ID_ISA_NEONBF16)
OMNI_ID_INLINE void store_pairs(uint16_t* to, Vector first, Vector second) {
  const uint16x4_t low = to_bf16(first), high = to_bf16(second);
  vst1_u16(to, vzip1_u16(low, high));
  vst1_u16(to + 4, vzip2_u16(low, high));
}
#endif

// From s and dp of a tile of keys by a panel of queries to p and ds, in rows of keys and, ds, in the panel as well.
// `scale` is the attention's times log2(e). Powers are of at most a rounding above 1.
template <typename Source, typename T>
OMNI_ID_INLINE void weigh(const Scratch& s, int64_t rows, int64_t query, int64_t columns, float scale, T* panel) {
  constexpr int64_t kPair = 4 / sizeof(T);
  const Vector factor = splat(scale);
  for (int64_t row = 0; row < rows; row += kPair) {
    for (int64_t i = 0; i < columns; i += kWidth) {
      const Vector shift = load(s.shift + query + i), rowsum = load(s.rowsum + query + i);
      Vector gradients[kPair];
      for (int64_t half = 0; half < kPair; ++half) {
        gradients[half] = splat(0.0f);
        if (row + half >= rows) continue;  // the second of the last pair of an odd number of keys
        const int64_t at = (row + half) * kPanelColumns + i, to = (row + half) * s.weight_stride + query + i;
        const Vector weight = power_of_two<Source>(multiply_add(load(s.scores + at), factor, shift));
        gradients[half] = multiply(weight, subtract(load(s.weight_gradients + at), rowsum));
        store_elements((T*)s.weights + to, weight);
        store_elements((T*)s.score_gradients + to, gradients[half]);
      }
      if constexpr (kPair == 1) {
        store(panel + row * kPanelColumns + i, gradients[0]);
      } else {
        store_pairs(panel + row * kPanelColumns + i * kPair, gradients[0], gradients[1]);
      }
    }
  }
}

// Rows of k or v as the tile reads them: where they lie, or copied where they have another type or end in half a pair.
template <typename Source, typename T>
const T* tile_rows(const void* from, int64_t* stride, int64_t row, int64_t rows, int64_t dim, void* copies, int64_t padded) {
  const Source* first = (const Source*)from + row * *stride;
  if (sizeof(Source) == sizeof(T) && dim % (int64_t)(4 / sizeof(T)) == 0) return (const T*)first;
  for (int64_t i = 0; i < rows; ++i) copy_row(first + i * *stride, dim, (T*)copies + i * padded);
  *stride = padded;
  return (const T*)copies;
}

// dq of a block of queries, turned back.
template <typename Source>
void store_queries(const Scratch& s, int64_t queries, int64_t dim, float scale, Source* to, int64_t stride) {
  const Vector factor = splat(scale);
  for (int64_t query = 0; query < queries; query += kWidth) {
    for (int64_t d = 0; d < dim; d += kWidth) {
      Vector square[kWidth];
#pragma GCC unroll 16
      for (int64_t i = 0; i < kWidth; ++i) {
        square[i] = d + i < dim ? multiply(load(s.query_sums + (d + i) * s.sum_stride + query), factor) : splat(0.0f);
      }
      transpose(square);
      const int64_t count = smaller(kWidth, queries - query);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kWidth; ++i) {
        if (i < count) store_part(to + (query + i) * stride + d, square[i], dim - d);
      }
    }
  }
}

// Part `part` of `parts` of all that the next head reads.
template <typename Source>
void fetch(const AttentionGradient* g, int64_t part, int64_t parts) {
  fetch_rows<Source>(g->k, g->k_stride, g->keys, g->head_dim, part, parts);
  fetch_rows<Source>(g->v, g->v_stride, g->keys, g->head_dim, part, parts);
  fetch_rows<Source>(g->q, g->q_stride, g->queries, g->head_dim, part, parts);
  fetch_rows<Source>(g->dout, g->dout_stride, g->queries, g->head_dim, part, parts);
  fetch_rows<Source>(g->out, g->out_stride, g->queries, g->head_dim, part, parts);
}

template <typename Source, typename T>
void differentiate(const AttentionGradient* g, void* base) {
  constexpr int64_t kPair = 4 / sizeof(T);
  const Scratch s = lay_out(g, base);
  const int64_t dim = g->head_dim, dim_steps = divide_up(dim, kPair);
  const float scale = g->scale * 1.44269504f;

  for (int64_t query = 0; query < g->queries; query += s.query_block) {
    const int64_t queries = smaller(s.query_block, g->queries - query), query_steps = divide_up(queries, kPair);
    const Source* q = (const Source*)g->q + query * g->q_stride;
    const Source* dout = (const Source*)g->dout + query * g->dout_stride;
    const bool last = query + queries == g->queries;
    prepare_queries<Source>(g, query, queries, s.shift, s.rowsum);
    pack_transposed(q, g->q_stride, queries, dim, (T*)s.queries);
    pack_transposed(dout, g->dout_stride, queries, dim, (T*)s.gradients);
    if (g->dk) {
      pack_rows(q, g->q_stride, queries, dim, (T*)s.query_rows);
      pack_rows(dout, g->dout_stride, queries, dim, (T*)s.gradient_rows);
    }
    for (int64_t key = 0; key < g->keys; key += s.key_block) {
      const int64_t keys = smaller(s.key_block, g->keys - key), key_steps = divide_up(keys, kPair);
      for (int64_t row = 0; row < keys; row += kTileRows) {
        const int64_t rows = smaller(kTileRows, keys - row);
        if (g->next && query == 0) fetch<Source>(g->next, (key + row) / kTileRows, divide_up(g->keys, kTileRows));
        // What is about to be written, whose lines would otherwise be waited for.
        if (g->dk && last) {
          fetch_rows<Source, true>((const Source*)g->dk + (key + row) * g->dk_stride, g->dk_stride, rows, dim, 0, 1);
          fetch_rows<Source, true>((const Source*)g->dv + (key + row) * g->dv_stride, g->dv_stride, rows, dim, 0, 1);
        }
        if (g->dq && key == 0) {
          fetch_rows<Source, true>((const Source*)g->dq + query * g->dq_stride, g->dq_stride, queries, dim, row / kTileRows,
                                   divide_up(keys, kTileRows));
        }
        int64_t k_stride = g->k_stride, v_stride = g->v_stride;
        const T* k = tile_rows<Source, T>(g->k, &k_stride, key + row, rows, dim, s.key_tile, s.padded_dim);
        const T* v = tile_rows<Source, T>(g->v, &v_stride, key + row, rows, dim, s.value_tile, s.padded_dim);
        for (int64_t panel = 0; panel < queries; panel += kPanelColumns) {
          const int64_t columns = smaller(kPanelColumns, queries - panel), packed = panel * dim_steps * kPair;
          tile<T>(rows, columns, k, k_stride, (const T*)s.queries + packed, dim_steps, s.scores, kPanelColumns, false);
          tile<T>(rows, columns, v, v_stride, (const T*)s.gradients + packed, dim_steps, s.weight_gradients, kPanelColumns,
                  false);
          weigh<Source, T>(s, rows, panel, columns, scale, (T*)s.score_panels + panel * s.key_block + row * kPanelColumns);
        }
        if (!g->dk) continue;
        const int64_t first = (query == 0 && last ? 0 : key + row) * s.padded_dim;
        for (int64_t d = 0; d < dim; d += kPanelColumns) {
          const int64_t columns = smaller(kPanelColumns, dim - d), packed = d * query_steps * kPair;
          tile<T>(rows, columns, (const T*)s.weights, s.weight_stride, (const T*)s.gradient_rows + packed, query_steps,
                  s.value_sums + first + d, s.padded_dim, query > 0);
          tile<T>(rows, columns, (const T*)s.score_gradients, s.weight_stride, (const T*)s.query_rows + packed, query_steps,
                  s.key_sums + first + d, s.padded_dim, query > 0);
        }
        for (int64_t i = 0; last && i < rows; ++i) {
          const int64_t from = first + i * s.padded_dim, to = key + row + i;
          store_row(s.value_sums + from, 1.0f, dim, (Source*)g->dv + to * g->dv_stride);
          store_row(s.key_sums + from, g->scale, dim, (Source*)g->dk + to * g->dk_stride);
        }
      }
      if (!g->dq) continue;
      transpose_rows((const Source*)g->k + key * g->k_stride, g->k_stride, keys, dim, (T*)s.keys_turned, s.turned_stride);
      for (int64_t panel = 0; panel < queries; panel += kPanelColumns) {
        for (int64_t d = 0; d < dim; d += kTileRows) {
          tile<T>(smaller(kTileRows, dim - d), smaller(kPanelColumns, queries - panel),
                  (const T*)s.keys_turned + d * s.turned_stride, s.turned_stride,
                  (const T*)s.score_panels + panel * s.key_block, key_steps, s.query_sums + d * s.sum_stride + panel,
                  s.sum_stride, key > 0);
        }
      }
    }
    if (g->dq) store_queries(s, queries, dim, g->scale, (Source*)g->dq + query * g->dq_stride, g->dq_stride);
  }
}

void clear_rows(const AttentionGradient* g, void* rows, int64_t stride, int64_t count) {
  const size_t element = g->type == kBf16 ? 2 : 4;
  for (int64_t i = 0; rows && i < count; ++i) {
    __builtin_memset((char*)rows + (size_t)(i * stride) * element, 0, (size_t)g->head_dim * element);
  }
}

}  // namespace

size_t attention_gradient_scratch_bytes(const AttentionGradient* g) {
  return g->queries == 0 || g->keys == 0 ? 0 : lay_out(g, nullptr).bytes;
}

void attention_gradient(const AttentionGradient* g, void* scratch) {
  if (g->queries == 0 || g->keys == 0) {  // whatever there is has no effect
    clear_rows(g, g->dq, g->dq_stride, g->queries);
    clear_rows(g, g->dk, g->dk_stride, g->keys);
    clear_rows(g, g->dv, g->dv_stride, g->keys);
  } else if (g->type == kF32) {
    differentiate<float, float>(g, scratch);
  } else {
#if defined(OMNI_ID_NATIVE_BF16)
    differentiate<uint16_t, uint16_t>(g, scratch);
#else
    differentiate<uint16_t, float>(g, scratch);
#endif
  }
}

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE
