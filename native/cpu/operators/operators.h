#pragma once

#include <memory>

#include "graph/operators.h"

// The CPU's column of the operator table.
namespace omni_id::cpu {

std::unique_ptr<Kernel> make_linear(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_layer_norm(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_attention(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_attention_gradient(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_patch_embedding(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_concat_rows(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_linear_input_gradient(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_linear_weight_gradient(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_layer_norm_gradient(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_concat_rows_gradient(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_place_columns(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_patch_embedding_gradient(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_patch_gather(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_patch_gather_gradient(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_patch_scatter(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_patch_scatter_gradient(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_masked_l1(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_masked_l1_gradient(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_add(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_activation_gradient(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_gate_gradient(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_column_sums(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_gradient_norm(const Arguments&, CpuDevice&);
std::unique_ptr<Kernel> make_adamw(const Arguments&, CpuDevice&);

}  // namespace omni_id::cpu
