#pragma once

#include <cmath>
#include <string>

#include "graph/operators.h"
#include "graph/rounding.h"

// Activations and their derivatives, with how far the kernels' approximations may be off (cpu/kernels/simd.h states each
// bound).
namespace omni_id {

inline void require_activation(const std::string& activation, const char* op) {
  require(activation == "none" || activation == "gelu" || activation == "quick_gelu", op,
          "activation \"" + activation + "\", expected none, gelu or quick_gelu");
}

struct Activated {
  double value, error;
};

// The activation of x, and the error of its result where x may be off by `error`: neither function is steeper than 1.13.
inline Activated activated(double x, double error, const std::string& activation, bool to_bf16) {
  constexpr double kSteepest = 1.13;
  if (activation == "gelu") {
    const double y = 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    return {y, kSteepest * error + (to_bf16 ? 4.3e-5 : 1.4e-7 * std::abs(x)) + kRoundingF32 * std::abs(y)};
  }
  if (activation == "quick_gelu") {
    const double y = x / (1.0 + std::exp(-1.702 * x));
    const double power = 3e-7 + 3.5 * std::abs(x) * kRoundingF32;  // relative, of e^(−1.702 x)
    return {y, kSteepest * error + std::abs(y) * (power / (1.0 + std::exp(1.702 * x)) + 2.0 * kRoundingF32)};
  }
  return {x, error};
}

// The activation's derivative at x, which is exact, and the error of the kernel's.
inline Activated derivative_of_activation(double x, const std::string& activation, bool to_bf16) {
  if (activation == "gelu") {
    const double phi = std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::acos(-1.0));
    return {0.5 * std::erfc(-x / std::sqrt(2.0)) + x * phi, to_bf16 ? 2.6e-5 : 6e-7};
  }
  if (activation == "quick_gelu") {
    const double s = 1.0 / (1.0 + std::exp(-1.702 * x)), slope = 1.702 * x * s * (1.0 - s);
    const double power = 3e-7 + 3.5 * std::abs(x) * kRoundingF32;
    // The power's error moves s by s·(1 − s) of itself, and the slope twice as much; every product and sum rounds once.
    return {s * 1.0 + slope, (s + 3.0 * std::abs(slope)) * (power + 4.0 * kRoundingF32)};
  }
  return {1.0, 0.0};
}

}  // namespace omni_id
