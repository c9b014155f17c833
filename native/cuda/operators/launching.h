#pragma once

#include <algorithm>
#include <string>
#include <utility>

#include "cuda/operators/activations.cuh"
#include "cuda/operators/operators.h"

// What the host side of the operators shares: from types and attributes known at run time to instances of kernels.
namespace omni_id::cuda {

inline int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks along one dimension of a grid.
inline unsigned blocks_for(int64_t items, int64_t per_block) { return static_cast<unsigned>(divided_up(items, per_block)); }

// Blocks of two counts along x.
inline unsigned blocks_of(int64_t some, int64_t each, const char* op) {
  require(some * each <= INT32_MAX, op, "more than 2^31 blocks");
  return static_cast<unsigned>(some * each);
}

// Blocks along y or z, which take fewer than x: kernels walk through what is beyond.
inline constexpr int64_t kMostAlongYZ = 65535;
inline unsigned along_yz(int64_t n) { return static_cast<unsigned>(std::min(n, kMostAlongYZ)); }

// body(float{}) or body(bf16{}).
template <typename Body>
void with_type(DType dtype, Body&& body) {
  if (dtype == DType::bf16) {
    body(bf16{});
  } else {
    body(float{});
  }
}

template <Activation activation>
struct ActivationConstant {
  static constexpr Activation value = activation;
};

// body(ActivationConstant<…>{}).
template <typename Body>
void with_activation(const std::string& name, Body&& body) {
  if (name == "gelu") {
    body(ActivationConstant<Activation::gelu>{});
  } else if (name == "quick_gelu") {
    body(ActivationConstant<Activation::quick_gelu>{});
  } else {
    body(ActivationConstant<Activation::none>{});
  }
}

}  // namespace omni_id::cuda
