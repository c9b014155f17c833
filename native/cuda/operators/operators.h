#pragma once

#include <memory>

#include "cuda/device.h"
#include "graph/operators.h"

// CUDA's column of the operator table.
namespace omni_id::cuda {

using MakeKernel = std::unique_ptr<Kernel> (*)(const Arguments&, CudaDevice&);

// Null for a row that has no twin; a test sees that none is missing (native/test/cuda_operators_test.cpp).
MakeKernel kernel_for(const OperatorRow& row);

std::unique_ptr<Kernel> make_attention(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_attention_gradient(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_add(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_activation_gradient(const Arguments&, CudaDevice&);
std::unique_ptr<Kernel> make_column_sums(const Arguments&, CudaDevice&);

}  // namespace omni_id::cuda
