#pragma once

#include <stddef.h>
#include <stdint.h>

// What the kernels of one instruction set offer to the rest of the CPU backend. Plain data and function pointers only:
// this header is compiled into every instruction set's objects, so it must define no function that a linker could share
// between them (an AVX-512 copy of an inline function kept for everyone is a crash on older machines).
// scripts/check-isa-symbols.mjs checks the objects.
namespace omni_id::cpu {

// Packed weights: panels of this many output columns, for every instruction set, so that a packed cache made on one machine
// is right on another. 32 floats are two AVX-512 registers, four AVX2 ones or eight NEON ones.
//   f32:  panel[k][32]
//   bf16: panel[ceil(k/2)][32][2], the second of the last pair zero when k is odd (the operand order of VDPBF16PS and BFDOT)
constexpr int64_t kPanelColumns = 32;

enum ElementType { kF32 = 0, kBf16 = 1 };
enum Activation { kNoActivation = 0, kGelu = 1, kQuickGelu = 2 };

// out[row(i), :] = gate[i / gate_rows, :] ⊙ activation(a[i, :] · Wᵀ + bias) + residual[residual_row(i), :]
// Rows may be written in groups, leaving the first `out_skip` rows of each group free (the class token of each image):
// row(i) = i / out_group · (out_group + out_skip) + out_skip + i mod out_group; with out_group 0, row(i) = i.
// The residual's row is row(i) mod residual_period (position embeddings repeat for every image), or row(i) with period 0.
//
// For gradients, `a` may be the transpose of what lies in memory; the product before its activation can be kept; and instead of
// an activation, the result can be multiplied by the derivative of one:
// out[i, :] = (a[i, :] · Wᵀ) · activation'(derivative_at[i, :]) + residual[i, :]
struct Gemm {
  int64_t m, n, k;  // k ≥ 1: the operators' shape rules refuse sums of nothing
  const void* a;
  int64_t a_stride;
  ElementType a_type;
  bool a_transposed;   // a[row, k] is a[k · a_stride + row]
  const void* weight;  // packed panels
  ElementType weight_type;
  const float* bias;  // [n] or null
  Activation activation;
  const float* gate;  // or null
  int64_t gate_stride;
  int64_t gate_rows;      // that one row of the gate multiplies
  const float* residual;  // or null; may be `out` itself
  int64_t residual_stride;
  int64_t residual_period;
  void* out;
  int64_t out_stride;
  ElementType out_type;
  int64_t out_group, out_skip;
  void* kept;  // or null: a · Wᵀ + bias, of out_type
  int64_t kept_stride;
  const void* derivative_at;  // or null
  int64_t derivative_stride;
  ElementType derivative_type;
};

// A matrix that lies in memory row by row, as the panels of a product's weight: B [k, n] is panels of n. Element (i, j) of B is
// from[i · stride + j], or from[j · stride + i] when `transposed`.
struct PackPanels {
  const void* from;
  int64_t stride;
  ElementType from_type;
  bool transposed;
  Activation activation;  // of every element, before it is rounded to to_type; only where B is not transposed
  int64_t k, n;
  void* to;
  ElementType to_type;
};

// One head of one sequence: out[i, :] = softmax(scale · q[i, :] · kᵀ) · v for i in [0, queries).
struct Attention {
  const void* q;
  const void* k;
  const void* v;
  void* out;
  float* logsumexp;  // of a query's scaled scores, or null: not wanted
  int64_t q_stride, k_stride, v_stride, out_stride, logsumexp_stride;
  int64_t queries, keys;
  int64_t head_dim;
  float scale;
  ElementType type;  // of q, k, v and out
  // What the same worker is likely to be given next, with the same strides: fetched into the second-level cache meanwhile.
  // Null: nothing.
  const void *next_q, *next_k, *next_v;
  int64_t next_queries, next_keys;
};

// The gradient of one head of one sequence, or of some of its queries or keys, whose sums are the same wherever it is cut.
struct AttentionGradient {
  const void *dout, *q, *k, *v, *out;
  const float* logsumexp;
  void* dq;       // null: not wanted; otherwise all keys must be there
  void *dk, *dv;  // null: not wanted; otherwise all queries must be there
  int64_t dout_stride, q_stride, k_stride, v_stride, out_stride, logsumexp_stride, dq_stride, dk_stride, dv_stride;
  int64_t queries, keys;
  int64_t head_dim;
  float scale;
  ElementType type;  // of all but logsumexp
  // What the same worker is likely to be given next, as `next_q` above. Null: nothing.
  const AttentionGradient* next;
};

// out[i, :] = (x[i, :] − mean) / sqrt(variance + epsilon) · weight + bias
struct LayerNorm {
  const float* x;
  int64_t x_stride;
  const float* weight;
  const float* bias;
  float epsilon;
  int64_t columns;
  void* out;
  int64_t out_stride;
  ElementType out_type;
};

// dx[i, :] = (g − mean(g) − x̂ · mean(g ⊙ x̂)) · rstd + sum[i, :], g = dy ⊙ weight; the sums over rows of dy ⊙ x̂ and of dy.
struct LayerNormGradient {
  const void* dy;
  int64_t dy_stride;
  ElementType dy_type;
  const float* x;
  int64_t x_stride;
  const float* weight;
  float epsilon;
  int64_t columns;
  const float* sum;  // or null; may be dx itself
  int64_t sum_stride;
  float* dx;
  int64_t dx_stride;
};

// Sums over all rows of a column, row by row, on top of `sum` (or nothing).
struct ColumnSums {
  const void* x;
  int64_t stride;
  ElementType type;
  int64_t rows;
  const float* sum;  // or null; may be `out` itself
  float* out;
};

// Rows of one gate: d[i, :] = gate ⊙ dy[i, :], and the sums over them of dy ⊙ activation(value).
struct GateGradient {
  const void* dy;
  int64_t dy_stride;
  ElementType dy_type;
  const float* gate;
  const void* value;  // null: the sums are not wanted
  int64_t value_stride;
  ElementType value_type;
  Activation activation;
  void* d;  // may be dy itself
  int64_t d_stride;
  ElementType d_type;
  int64_t rows, columns;
};

// `count` elements of a vector of one type. Outputs may be the inputs themselves.
struct Elementwise {
  const void* a;
  const void* b;
  void* out;
  ElementType type;  // of a and out
  ElementType b_type;
  Activation activation;  // of activation_gradient
  int64_t count;
};

// A stretch of parameters with one learning rate and decay, see native/operators/optimizer.cpp. `average` may be null.
struct AdamW {
  const float *values, *gradients, *first, *second, *average;
  float *values_out, *first_out, *second_out, *average_out;
  int64_t count;
  float clip, kept, step, root_of_c2, epsilon;  // kept: 1 − rate · decay; step: rate / c₁
  float beta1, rest1, beta2, rest2;             // rest: 1 − the other, rounded once
  float follow;                                 // 1 − the average's decay
};

// A line of pixels of the patches that it crosses, beside each other in `target` and `mask`, [patches][count], `stride`
// elements apart in the prediction: Σ |prediction − target| · mask, or out = scale · sign(prediction − target) · mask.
struct MaskedL1 {
  const float *prediction, *target, *mask;
  float* out;  // may be the prediction itself
  int64_t patches, count, stride, out_stride;
  float scale;
};

// One direction of an image resize: `outputs` weighted sums over runs of `taps[i]` pixels (or rows) from `first[i]`.
struct Resample {
  const uint8_t* source;
  int64_t source_stride;  // bytes between rows
  int64_t source_pixels;  // in a row
  int64_t outputs;
  const int32_t* first;
  const int32_t* taps;
  const int32_t* weights;  // [outputs][most_taps], 22 fractional bits
  int64_t most_taps;
  uint8_t* out;
  int64_t out_stride;
};

struct KernelTable {
  const char* name;
  // Bytes of scratch that one call of `gemm_block` over at most `rows` × `panels` needs (64-byte aligned).
  size_t (*gemm_scratch_bytes)(const Gemm*, int64_t rows, int64_t panels);
  void (*gemm_block)(const Gemm*, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end, void* scratch);
  void (*pack_panels)(const PackPanels*, int64_t panel_begin, int64_t panel_end);
  size_t (*attention_scratch_bytes)(const Attention*);
  void (*attention)(const Attention*, void* scratch);
  size_t (*attention_gradient_scratch_bytes)(const AttentionGradient*);
  void (*attention_gradient)(const AttentionGradient*, void* scratch);
  void (*layer_norm)(const LayerNorm*, int64_t row_begin, int64_t row_end);
  // `sums` [2][columns]: those of the rows of this call, of dy ⊙ x̂ and of dy.
  void (*layer_norm_gradient)(const LayerNormGradient*, int64_t row_begin, int64_t row_end, float* sums);
  void (*column_sums)(const ColumnSums*, int64_t column_begin, int64_t column_end);
  void (*add)(const Elementwise*);
  void (*activation_gradient)(const Elementwise*);
  // `sums` [columns], or null.
  void (*gate_gradient)(const GateGradient*, float* sums);
  void (*to_bf16)(const float* from, int64_t count, uint16_t* to);
  // to[x][channel] = from[channel · plane + x]
  void (*interleave)(const float* from, int64_t plane, int64_t channels, int64_t pixels, float* to);
  float (*masked_l1)(const MaskedL1*);
  void (*masked_l1_gradient)(const MaskedL1*);
  void (*adamw)(const AdamW*);
  double (*sum_of_squares)(const float* values, int64_t count);
  size_t (*resample_scratch_bytes)(const Resample*);
  void (*resample_rows)(const Resample*, int64_t row_begin, int64_t row_end, void* scratch);
  void (*resample_columns)(const Resample*, int64_t begin, int64_t end);
  // What this instruction set can do at most, see peak.cpp. Each returns the flops, or bytes, of one call on one thread.
  double (*peak_f32)(int64_t steps);
  double (*peak_bf16)(int64_t steps);  // null where there are no bfloat16 dot products
  double (*read_memory)(const float* data, int64_t count);
};

namespace portable {
const KernelTable& kernels();
}
#if defined(__x86_64__)
namespace avx2 {
const KernelTable& kernels();
}
namespace avx512 {
const KernelTable& kernels();
}
namespace avx512bf16 {
const KernelTable& kernels();
}
#elif defined(__aarch64__)
namespace neon {
const KernelTable& kernels();
}
namespace neonbf16 {
const KernelTable& kernels();
}
#endif

}  // namespace omni_id::cpu
