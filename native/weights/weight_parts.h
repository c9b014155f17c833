#pragma once

#include <string>
#include <vector>

#include "weights/weight_store.h"

namespace omni_id {

// One of several weights that are read as one, and the first row of it in the whole.
struct WeightPart {
  WeightTensor tensor;
  int64_t first_row = 0, rows = 0;
};

// `names` one behind the other along the first dimension. Throws ERR_WEIGHTS when that is not `type`'s shape.
std::vector<WeightPart> parts_of(const WeightStore& weights, const std::vector<std::string>& names, const TensorType& type);

// Of parts that lie in mapped files: once read, they need no memory.
void release(const std::vector<WeightPart>& parts);

}  // namespace omni_id
