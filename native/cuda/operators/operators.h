#pragma once

#include <memory>

#include "cuda/device.h"
#include "graph/operators.h"

// CUDA's column of the operator table.
namespace omni_id::cuda {

using MakeKernel = std::unique_ptr<Kernel> (*)(const Arguments&, CudaDevice&);

// Null for a row that has no twin; a test sees that none is missing (native/test/operators_test.cpp).
MakeKernel kernel_for(const OperatorRow& row);

std::unique_ptr<Kernel> make_attention(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_attention_gradient(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_add(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_activation_gradient(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_gate_gradient(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_place_columns(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_column_sums(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_linear(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_linear_input_gradient(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_linear_weight_gradient(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_patch_embedding(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_patch_embedding_gradient(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_layer_norm(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_layer_norm_gradient(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_masked_l1(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_masked_l1_gradient(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_gradient_norm(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_adamw(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_concat_rows(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_concat_rows_gradient(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_patch_gather(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_patch_gather_gradient(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_patch_scatter(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_patch_scatter_gradient(const Arguments&, CudaDevice&);

}  // namespace omni_id::cuda
