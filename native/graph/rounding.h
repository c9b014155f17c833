#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

// How far a right kernel may be off from the exact result, in the terms in which references say it beside the result. A bound
// follows from the number formats and from what is computed, never from what a kernel was seen to do.
namespace omni_id {

// Relative error of one rounding to nearest.
inline constexpr double kRoundingF32 = 0x1p-24, kRoundingBf16 = 0x1p-8;

// The largest error of rounding a number of this size or less to bf16: half the distance of its neighbours there.
inline double rounding_to_bf16(double magnitude) {
  return magnitude == 0.0 ? 0.0 : std::ldexp(kRoundingBf16, std::ilogb(magnitude));
}

// The error of a sum of n products, in roundings of the sum of their magnitudes. In the worst case it is n, and n + 1 without
// fused multiply-add. The references' operands have random signs: partial sums walk about zero instead of growing, and so do
// their roundings, so that beyond a few terms the error relative to the magnitudes does not grow with n, whatever the order of
// the sum (Higham and Mary, "Sharper probabilistic backward error analysis for basic linear algebra kernels with random data",
// SIAM J. Sci. Comput. 42, 2020). Of normal operands its standard deviation is 0.44 roundings (0.4 of a partial sum for each,
// partial sums of √i, magnitudes of 2/π each); the few sums that wander far have several times that.
inline double roundings_of_products(int64_t n) { return std::min(static_cast<double>(n + 1), 5.0); }

// The same for a sum of n terms that are there already: the first is copied, every other one rounds the sum once.
inline double roundings_of_terms(int64_t n) { return std::clamp(static_cast<double>(n - 1), 0.0, 5.0); }

// The same for a sum of n positive terms, which does grow: roundings walk randomly along the growing sum.
inline double roundings_of_positives(int64_t n) { return std::sqrt(static_cast<double>(n)); }

// Many independent errors of which the bounds are known: together at most their sum, and hardly more than three times the root
// of the sum of their squares, where a rounding's standard deviation is below 0.6 of its bound.
struct IndependentErrors {
  double sum = 0.0, squares = 0.0;

  void add(double bound) {
    sum += bound;
    squares += bound * bound;
  }
  double together() const { return std::min(sum, 3.0 * std::sqrt(squares)); }
};

}  // namespace omni_id
