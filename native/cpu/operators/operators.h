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

}  // namespace omni_id::cpu
