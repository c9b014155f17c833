// Attention of one head of one sequence: out = softmax(scale · q · kᵀ) · v, with an online softmax, see `Attention` in
// kernels.h.
//
// Strategy: keys are taken in blocks of kKeyBlock. A block's keys and values are packed once into the panels that the GEMM tile
// reads (keys transposed); then for every tile of queries: scores of the block into a buffer that fits the first-level cache,
// running maximum and sum, weights exp(s − max) in place (in bf16 where the tile multiplies bf16), and weights · values added
// to the accumulator after rescaling it. The score matrix of a sequence is never stored. Softmax, sums and accumulators are
// f32; in bf16 the sum is taken before the weights are rounded, as in flash-attention. Cost: 4 · queries · keys · head_dim
// flops; reads q, k, v once and writes out once. Every query's result is independent of the others, so that callers may split
// the queries freely.
#include "cpu/kernels/attention_packing.h"
#include "cpu/kernels/gemm_tile.h"

namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

namespace {

// Two packed operands of 512 × 128 floats are 512 KiB: they stay in the second-level cache.
constexpr int64_t kKeyBlock = 512;

struct Scratch {
  void* keys;          // panels [32 keys] of [head_dim][32]
  void* values;        // panels [32 dims] of [key][32]
  void* queries;       // [kTileRows][padded head_dim]
  float* scores;       // [kTileRows][score_stride]
  void* weights;       // the same in the tile's type; `scores` itself in f32
  float* accumulator;  // [queries][padded head_dim]
  float* maximum;      // [queries], of scaled scores
  float* sum;          // [queries]
  int64_t score_stride;
  size_t bytes;
};

Scratch lay_out(const Attention* g, void* base) {
  const size_t element = kNativeBf16 && g->type == kBf16 ? 2 : 4;
  const size_t padded_dim = (size_t)divide_up(g->head_dim, kPanelColumns) * kPanelColumns;
  const size_t block = (size_t)smaller(kKeyBlock, divide_up(g->keys, kPanelColumns) * kPanelColumns);
  char* start = (char*)base;
  size_t at = 0;
  Scratch s;
  // One line more than the keys need, so that the rows do not meet in the same sets of the first-level cache.
  s.score_stride = (int64_t)block + 16;
  s.keys = start + at;
  at += aligned(block * padded_dim * element);
  s.values = start + at;
  at += aligned(block * padded_dim * element);
  s.queries = start + at;
  at += aligned(kTileRows * padded_dim * element);
  s.scores = (float*)(start + at);
  at += aligned((size_t)(kTileRows * s.score_stride) * sizeof(float));
  s.weights = element == 2 ? start + at : (char*)s.scores;
  if (element == 2) at += aligned((size_t)(kTileRows * s.score_stride) * element);
  s.accumulator = (float*)(start + at);
  at += aligned((size_t)g->queries * padded_dim * sizeof(float));
  s.maximum = (float*)(start + at);
  at += aligned((size_t)g->queries * sizeof(float));
  s.sum = (float*)(start + at);
  at += aligned((size_t)g->queries * sizeof(float));
  s.bytes = at;
  return s;
}

// Turns one row of scores into weights, updates its maximum and sum, and rescales what was accumulated under the old maximum.
// `scale` is the attention's times log2(e), so that weights are powers of two.
template <typename Source, typename T>
void softmax_row(float* scores, int64_t keys, float scale, T* weights, float* maximum, float* sum, float* accumulator,
                 int64_t dim, bool first_block) {
  const int64_t padded = divide_up(keys, kWidth) * kWidth;
  for (int64_t i = keys; i < padded; ++i) scores[i] = -__builtin_inff();
  Vector top = load(scores);
  for (int64_t i = kWidth; i < padded; i += kWidth) top = larger_of(top, load(scores + i));
  const float block_maximum = largest_of(top) * scale;
  const float new_maximum = first_block || block_maximum > *maximum ? block_maximum : *maximum;
  const Vector factor = splat(scale), shift = splat(-new_maximum);
  Vector total = splat(0.0f);
  for (int64_t i = 0; i < padded; i += kWidth) {
    const Vector weight = power_of_two<Source>(multiply_add(load(scores + i), factor, shift));
    total = add(total, weight);
    store_elements(weights + i, weight);
  }
  float carried = 0.0f;
  if (!first_block) {
    float ratio[kWidth];
    store(ratio, power_of_two<Source>(splat(*maximum - new_maximum)));
    carried = *sum * ratio[0];
    const Vector correction = splat(ratio[0]);
    for (int64_t d = 0; d < dim; d += kWidth) store(accumulator + d, multiply(load(accumulator + d), correction));
  }
  *maximum = new_maximum;
  *sum = carried + sum_of(total);
}

// Source: the type in memory. T: the type that the tile multiplies.
template <typename Source, typename T>
void attend(const Attention* g, void* base) {
  constexpr int64_t kPair = 4 / sizeof(T);
  const Scratch s = lay_out(g, base);
  const int64_t dim = g->head_dim;
  const int64_t padded_dim = divide_up(dim, kPanelColumns) * kPanelColumns;
  const int64_t dim_steps = divide_up(dim, kPair);
  // Queries are multiplied where they lie, unless they have another type or end in half a pair.
  const bool copies_queries = sizeof(Source) != sizeof(T) || dim % kPair != 0;
  T* weights = (T*)s.weights;
  const float scale = g->scale * 1.44269504f;

  for (int64_t key = 0; key < g->keys; key += kKeyBlock) {
    const int64_t keys = smaller(kKeyBlock, g->keys - key);
    const int64_t key_steps = divide_up(keys, kPair);
    pack_transposed((const Source*)g->k + key * g->k_stride, g->k_stride, keys, dim, (T*)s.keys);
    pack_rows((const Source*)g->v + key * g->v_stride, g->v_stride, keys, dim, (T*)s.values);
    for (int64_t query = 0; query < g->queries; query += kTileRows) {
      const int64_t rows = smaller(kTileRows, g->queries - query);
      if (key == 0) {
        const int64_t part = query / kTileRows, parts = divide_up(g->queries, kTileRows);
        fetch_rows<Source>(g->next_k, g->k_stride, g->next_keys, dim, part, parts);
        fetch_rows<Source>(g->next_v, g->v_stride, g->next_keys, dim, part, parts);
        fetch_rows<Source>(g->next_q, g->q_stride, g->next_queries, dim, part, parts);
      }
      const T* queries = (const T*)g->q + query * g->q_stride;
      int64_t query_stride = g->q_stride;
      if (copies_queries) {
        for (int64_t row = 0; row < rows; ++row) {
          copy_row((const Source*)g->q + (query + row) * g->q_stride, dim, (T*)s.queries + row * padded_dim);
        }
        queries = (const T*)s.queries;
        query_stride = padded_dim;
      }
      for (int64_t panel = 0; panel < keys; panel += kPanelColumns) {
        tile<T>(rows, smaller(kPanelColumns, keys - panel), queries, query_stride, (const T*)s.keys + panel * dim_steps * kPair,
                dim_steps, s.scores + panel, s.score_stride, false);
      }
      float* accumulator = s.accumulator + query * padded_dim;
      for (int64_t row = 0; row < rows; ++row) {
        softmax_row<Source, T>(s.scores + row * s.score_stride, keys, scale, weights + row * s.score_stride,
                               s.maximum + query + row, s.sum + query + row, accumulator + row * padded_dim, dim, key == 0);
      }
      for (int64_t d = 0; d < dim; d += kPanelColumns) {
        tile<T>(rows, smaller(kPanelColumns, dim - d), weights, s.score_stride, (const T*)s.values + d * key_steps * kPair,
                key_steps, accumulator + d, padded_dim, key > 0);
      }
    }
  }
  for (int64_t query = 0; query < g->queries; ++query) {
    store_row(s.accumulator + query * padded_dim, 1.0f / s.sum[query], dim, (Source*)g->out + query * g->out_stride);
    if (g->logsumexp) {
      g->logsumexp[query * g->logsumexp_stride] = s.maximum[query] * 0.693147181f + __builtin_logf(s.sum[query]);
    }
  }
}

}  // namespace

size_t attention_scratch_bytes(const Attention* g) { return lay_out(g, nullptr).bytes; }

void attention(const Attention* g, void* scratch) {
  if (g->keys == 0) {  // a softmax over nothing weighs nothing
    const size_t row_bytes = (size_t)g->head_dim * (g->type == kBf16 ? 2 : 4);
    for (int64_t i = 0; i < g->queries; ++i) {
      __builtin_memset((char*)g->out + (size_t)(i * g->out_stride) * (g->type == kBf16 ? 2 : 4), 0, row_bytes);
      if (g->logsumexp) g->logsumexp[i * g->logsumexp_stride] = 0.0f;
    }
    return;
  }
  if (g->type == kF32) {
    attend<float, float>(g, scratch);
  } else {
#if defined(OMNI_ID_NATIVE_BF16)
    attend<uint16_t, uint16_t>(g, scratch);
#else
    attend<uint16_t, float>(g, scratch);
#endif
  }
}

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE
