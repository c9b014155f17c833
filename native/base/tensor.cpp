#include "base/tensor.h"

#include "base/error.h"

namespace omni_id {

size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
  }
  return 0;
}

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "f16";
    case DType::i32:
      return "i32";
  }
  return "?";
}

DType dtype_named(const std::string& name) {
  if (name == "f32" || name == "F32") return DType::f32;
  if (name == "bf16" || name == "BF16") return DType::bf16;
  if (name == "f16" || name == "F16") return DType::f16;
  if (name == "i32" || name == "I32") return DType::i32;
  throw EngineError(kInvalidArgument, "unknown dtype \"" + name + "\": expected f32, bf16, f16 or i32");
}

int64_t elements_of(const Shape& shape) {
  int64_t elements = 1;  // of the dimensions that are not 0
  bool empty = false;
  for (int64_t dimension : shape) {
    // 2^53, because every count also passes through a JavaScript number.
    if (dimension < 0 || (dimension > 0 && elements > (int64_t{1} << 53) / dimension)) {
      throw EngineError(kInvalidArgument, "shape " + to_string(shape) + " has a negative or too large dimension");
    }
    if (dimension > 0) elements *= dimension;
    empty = empty || dimension == 0;
  }
  return empty ? 0 : elements;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::string to_string(const TensorType& type) { return std::string(name_of(type.dtype)) + to_string(type.shape); }

}  // namespace omni_id
