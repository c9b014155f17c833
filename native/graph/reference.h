#pragma once

#include <map>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace omni_id {

using ReferenceValues = std::map<std::string, std::vector<double>>;

// Runs a graph without weights through its operators' references, in double precision from the first value to the last: what
// gradients are compared with. With `bf16` every input and result but single numbers is rounded to bfloat16: a straightforward
// computation in it, which kernels that keep sums and residuals in f32 must not be worse than. Slow. Throws
// ERR_INVALID_ARGUMENT when an input is missing or has another size.
ReferenceValues evaluate_reference(const Graph& graph, const ReferenceValues& inputs, bool bf16 = false);

// Input `index` of a row's case: normal random numbers (the given ones for indices), fitted to each other where they must be.
std::vector<ReferenceTensor> draw_inputs(const OperatorRow& row, const OperatorCase& one, uint32_t seed);

}  // namespace omni_id
