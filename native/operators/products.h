#pragma once

#include <cmath>
#include <string>

#include "graph/operators.h"
#include "graph/rounding.h"

namespace omni_id {

// The type that a product is computed in: the weight's, or what `compute` says (parameters are kept in f32 and may be
// multiplied in bf16).
inline DType product_type(const Arguments& a, const TensorType& weight) {
  const std::string& compute = a.text("compute");
  return compute.empty() ? weight.dtype : dtype_named(compute);
}

inline void require_compute(const Arguments& a, const char* op) {
  const std::string& compute = a.text("compute");
  require(compute.empty() || compute == "f32" || compute == "bf16", op, "compute must be f32 or bf16");
}

// A sum of products in double precision, and how far a kernel's may be off: operands that are f32 are rounded before a product
// in bf16, and its sums are in f32 whatever its operands are.
class ProductSum {
 public:
  ProductSum(int64_t length, DType product, DType left, DType right) : length_(length) {
    if (product == DType::bf16)
      rounded_ = (left == DType::f32 ? kRoundingBf16 : 0.0) + (right == DType::f32 ? kRoundingBf16 : 0.0);
  }

  void add(double left, double right) {
    const double product = left * right;
    value_ += product;
    magnitude_ += std::abs(product);
    if (rounded_ > 0.0) of_operands_.add(rounded_ * std::abs(product));
  }

  double value() const { return value_; }
  double error() const { return kRoundingF32 * roundings_of_products(length_) * magnitude_ + of_operands_.together(); }

 private:
  int64_t length_;
  double rounded_ = 0.0, value_ = 0.0, magnitude_ = 0.0;
  IndependentErrors of_operands_;
};

}  // namespace omni_id
