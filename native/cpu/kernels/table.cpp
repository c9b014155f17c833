// The one symbol by which the rest of the CPU backend reaches the kernels of this instruction set.
#include "cpu/kernels/simd.h"

#define OMNI_ID_TEXT_OF(x) #x
#define OMNI_ID_NAME_OF(x) OMNI_ID_TEXT_OF(x)

namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

size_t gemm_scratch_bytes(const Gemm*, int64_t rows, int64_t panels);
void gemm_block(const Gemm*, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end, void* scratch);
void pack_panels(const PackPanels*, int64_t panel_begin, int64_t panel_end);
size_t attention_scratch_bytes(const Attention*);
void attention(const Attention*, void* scratch);
size_t attention_gradient_scratch_bytes(const AttentionGradient*);
void attention_gradient(const AttentionGradient*, void* scratch);
void layer_norm(const LayerNorm*, int64_t row_begin, int64_t row_end);
void layer_norm_gradient(const LayerNormGradient*, int64_t row_begin, int64_t row_end, float* sums);
void column_sums(const ColumnSums*, int64_t column_begin, int64_t column_end);
void add_vectors(const Elementwise*);
void activation_gradient(const Elementwise*);
void gate_gradient(const GateGradient*, float* sums);
void convert_to_bf16(const float* from, int64_t count, uint16_t* to);
void interleave(const float* from, int64_t plane, int64_t channels, int64_t pixels, float* to);
float masked_l1(const MaskedL1*);
void masked_l1_gradient(const MaskedL1*);
void adamw(const AdamW*);
double sum_of_squares(const float* values, int64_t count);
size_t resample_scratch_bytes(const Resample*);
void resample_rows(const Resample*, int64_t row_begin, int64_t row_end, void* scratch);
void resample_columns(const Resample*, int64_t begin, int64_t end);
double peak_f32(int64_t steps);
#if defined(OMNI_ID_NATIVE_BF16)
double peak_bf16(int64_t steps);
#else
constexpr double (*peak_bf16)(int64_t) = nullptr;
#endif
double read_memory(const float* data, int64_t count);

const KernelTable& kernels() {
  static const KernelTable table = {
      OMNI_ID_NAME_OF(OMNI_ID_ISA_NAMESPACE),
      gemm_scratch_bytes,
      gemm_block,
      pack_panels,
      attention_scratch_bytes,
      attention,
      attention_gradient_scratch_bytes,
      attention_gradient,
      layer_norm,
      layer_norm_gradient,
      column_sums,
      add_vectors,
      activation_gradient,
      gate_gradient,
      convert_to_bf16,
      interleave,
      masked_l1,
      masked_l1_gradient,
      adamw,
      sum_of_squares,
      resample_scratch_bytes,
      resample_rows,
      resample_columns,
      peak_f32,
      peak_bf16,
      read_memory,
  };
  return table;
}

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE
