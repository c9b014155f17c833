#include "weights/weight_parts.h"

#include "base/error.h"

namespace omni_id {

namespace {

int64_t rows_of(const TensorType& type) { return type.shape.empty() ? 1 : type.shape[0]; }

}  // namespace

std::vector<WeightPart> parts_of(const WeightStore& weights, const std::vector<std::string>& names, const TensorType& type) {
  std::vector<WeightPart> parts;
  int64_t rows = 0;
  for (const std::string& name : names) {
    const WeightTensor tensor = weights.at(name);
    Shape shape = tensor.type.shape, expected = type.shape;
    if (!shape.empty() && !expected.empty()) shape[0] = expected[0] = 0;
    if (shape != expected) {
      throw EngineError(kWeights,
                        "weight " + name + " is " + to_string(tensor.type) + ", which does not fit " + to_string(type));
    }
    parts.push_back({tensor, rows, rows_of(tensor.type)});
    rows += parts.back().rows;
  }
  if (rows != rows_of(type)) {
    throw EngineError(kWeights, "weight " + names[0] + " and those it is read with have " + std::to_string(rows) +
                                    " rows, expected " + to_string(type));
  }
  return parts;
}

void release(const std::vector<WeightPart>& parts) {
  for (const auto& [tensor, first_row, rows] : parts) {
    if (tensor.file) tensor.file->release(static_cast<size_t>(tensor.data - tensor.file->data()), tensor.type.bytes());
  }
}

}  // namespace omni_id
