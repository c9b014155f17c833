#pragma once

#include <map>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace omni_id {

using ReferenceValues = std::map<std::string, std::vector<double>>;

// Runs a graph without weights through its operators' references, in double precision from the first value to the last: what
// gradients are compared with. Slow. Throws ERR_INVALID_ARGUMENT when an input is missing or has another size.
ReferenceValues evaluate_reference(const Graph& graph, const ReferenceValues& inputs);

// Input `index` of a row's case: normal random numbers (the given ones for indices), fitted to each other where they must be.
std::vector<ReferenceTensor> draw_inputs(const OperatorRow& row, const OperatorCase& one, uint32_t seed);

}  // namespace omni_id
