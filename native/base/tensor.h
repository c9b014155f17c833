#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace omni_id {

// f32 and bf16 are computed with; f16 occurs in weight files only; i32 holds offsets and row indices.
enum class DType : uint8_t { f32, bf16, f16, i32 };

size_t size_of(DType dtype);
const char* name_of(DType dtype);
// Accepts the engine's names ("f32") and safetensors' ("F32"). Throws ERR_INVALID_ARGUMENT.
DType dtype_named(const std::string& name);

using Shape = std::vector<int64_t>;

// Product of the dimensions; throws ERR_INVALID_ARGUMENT when one is negative or the product overflows. Zeros do not count for
// that: of an empty tensor too, no product of some of the dimensions overflows.
int64_t elements_of(const Shape& shape);
std::string to_string(const Shape& shape);

struct TensorType {
  DType dtype = DType::f32;
  Shape shape;

  int64_t elements() const { return elements_of(shape); }
  size_t bytes() const { return static_cast<size_t>(elements()) * size_of(dtype); }
  // A tensor of any rank seen as a matrix: its last dimension are the columns.
  int64_t columns() const { return shape.empty() ? 1 : shape.back(); }
  int64_t rows() const { return columns() == 0 ? 0 : elements() / columns(); }
  bool operator==(const TensorType&) const = default;
};

std::string to_string(const TensorType& type);

// A tensor as kernels see it: rows of contiguous columns, `row_stride` elements apart, so that a column slice
// (the queries inside a fused query-key-value matrix) needs no copy.
struct TensorView {
  std::byte* data = nullptr;
  TensorType type;
  int64_t row_stride = 0;

  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
};

// memcpy, for which no bytes may come from nowhere: an empty array has no address.
inline void copy_bytes(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

}  // namespace omni_id
