// linear: y = activation(x · Wᵀ + b) + residual
//   x [rows, inputs], W [outputs, …inputs], b [outputs], residual and y [rows, outputs]; `output` is the dtype of y.
// The last two terms cost nothing extra: they are part of the product's epilogue.
#include <cmath>

#include "cpu/operators/operators.h"
#include "graph/operators.h"
#include "graph/rounding.h"

namespace omni_id::operators {

namespace {

constexpr const char* kName = "linear";

std::vector<TensorType> shapes(const Arguments& a) {
  const TensorType &x = a[0], &weight = a[1];
  require(x.shape.size() == 2, kName, "x is " + to_string(x) + ", expected two dimensions");
  require(!weight.shape.empty(), kName, "weight has no dimensions");
  const int64_t outputs = weight.shape[0];
  require(outputs > 0 && x.columns() > 0 && weight.elements() == outputs * x.columns(), kName,
          "weight " + to_string(weight) + " does not fit x " + to_string(x));
  if (a.has(2)) {
    require(a[2].dtype == DType::f32 && a[2].shape == Shape{outputs}, kName,
            "bias is " + to_string(a[2]) + ", expected f32[" + std::to_string(outputs) + "]");
  }
  const TensorType y{dtype_named(a.text("output")), {x.shape[0], outputs}};
  require(y.dtype == DType::f32 || y.dtype == DType::bf16, kName, "output must be f32 or bf16");
  if (a.has(3)) {
    require(a[3] == TensorType{DType::f32, y.shape}, kName,
            "residual is " + to_string(a[3]) + ", expected f32" + to_string(y.shape));
  }
  const std::string& activation = a.text("activation");
  require(activation == "none" || activation == "gelu" || activation == "quick_gelu", kName,
          "activation \"" + activation + "\", expected none, gelu or quick_gelu");
  return {y};
}

int64_t sum_length(const Arguments& a) { return a[0].columns(); }

// The activation of x, and the error of its result where x may be off by `error`: neither function is steeper than 1.13, and
// both have a bound of their own, stated where they are approximated (cpu/kernels/simd.h).
struct Activated {
  double value, error;
};

Activated activated(double x, double error, const std::string& activation, bool to_bf16) {
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

void reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const int64_t rows = a[0].shape[0], k = a[0].columns(), n = a[1].shape[0];
  const bool to_bf16 = a.text("output") == "bf16";
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = a.has(2) ? in[2].values[j] : 0.0, magnitude = 0.0;
      for (int64_t l = 0; l < k; ++l) {
        const double product = in[0].values[i * k + l] * in[1].values[j * k + l];
        sum += product;
        magnitude += std::abs(product);
      }
      const double error = roundings_of_products(sum_length(a)) * magnitude + (a.has(2) ? std::abs(sum) : 0.0);
      auto [y, y_error] = activated(sum, kRoundingF32 * error, a.text("activation"), to_bf16);
      if (a.has(3)) {
        y += in[3].values[i * n + j];
        y_error += kRoundingF32 * std::abs(y);
      }
      out[0].values[i * n + j] = y;
      out[0].errors[i * n + j] = y_error;
    }
  }
}

Attributes with_activation(const char* activation) { return {{"activation", std::string(activation)}}; }

Attributes to_bf16(const char* activation) {
  return {{"activation", std::string(activation)}, {"output", std::string("bf16")}};
}

}  // namespace

const OperatorRow linear = {
    .name = kName,
    .inputs = {{"x", InputRole::plain},
               {"weight", InputRole::matrix},
               {"bias", InputRole::plain, true},
               {"residual", InputRole::plain, true}},
    .attributes = {{"activation", std::string("none")}, {"output", std::string("f32")}},
    .shapes = shapes,
    .in_place_input = 3,
    .cpu = cpu::make_linear,
    .reference = reference,
    .flops = [](const Arguments& a) { return 2.0 * static_cast<double>(a[0].shape[0]) * static_cast<double>(a[1].elements()); },
    .sum_length = sum_length,
    .cases =
        {
            {{{1, 1}, {1, 1}, {}, {}}, {}, {}},
            {{{3, 7}, {5, 7}, {5}, {}}, {}, {}},
            {{{13, 33}, {31, 33}, {31}, {13, 31}}, with_activation("gelu"), {}},
            {{{257, 588}, {48, 588}, {48}, {}}, {}, {}},
            {{{25, 257}, {65, 257}, {}, {25, 65}}, {}, {}},
            {{{65, 384}, {1152, 384}, {1152}, {}}, with_activation("quick_gelu"), {}},
            {{{50, 1536}, {384, 1536}, {384}, {50, 384}}, {}, {}},
            {{{0, 16}, {16, 16}, {16}, {}}, {}, {}},
            {{{14, 65}, {33, 65}, {33}, {}}, to_bf16("none"), {}},
            {{{14, 65}, {33, 65}, {}, {14, 33}}, to_bf16("none"), {}},
            {{{37, 100}, {71, 100}, {71}, {}}, to_bf16("gelu"), {}},
            {{{37, 100}, {71, 100}, {71}, {37, 71}}, to_bf16("gelu"), {}},
            {{{37, 100}, {71, 100}, {71}, {}}, to_bf16("quick_gelu"), {}},
            {{{37, 100}, {71, 100}, {71}, {37, 71}}, to_bf16("quick_gelu"), {}},
            // Sums between −4 and 4, where the activations curve.
            {{{40, 1}, {96, 1}, {96}, {}}, to_bf16("gelu"), {}},
            {{{40, 1}, {96, 1}, {96}, {}}, to_bf16("quick_gelu"), {}},
        },
};

}  // namespace omni_id::operators
