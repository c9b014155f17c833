// linear: y = activation(x · Wᵀ + b) + residual
//   x [rows, inputs], W [outputs, …inputs], b [outputs], residual and y [rows, outputs]; `output` is the dtype of y.
// The last two terms cost nothing extra: they are part of the product's epilogue.
#include <cmath>

#include "cpu/operators/operators.h"
#include "graph/operators.h"

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

double activated(double x, const std::string& activation) {
  if (activation == "gelu") return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
  if (activation == "quick_gelu") return x / (1.0 + std::exp(-1.702 * x));
  return x;
}

void reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const int64_t rows = a[0].shape[0], k = a[0].columns(), n = a[1].shape[0];
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = a.has(2) ? in[2].values[j] : 0.0;
      for (int64_t l = 0; l < k; ++l) sum += in[0].values[i * k + l] * in[1].values[j * k + l];
      sum = activated(sum, a.text("activation"));
      out[0].values[i * n + j] = sum + (a.has(3) ? in[3].values[i * n + j] : 0.0);
    }
  }
}

Attributes with_activation(const char* activation) { return {{"activation", std::string(activation)}}; }

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
    .sum_length = [](const Arguments& a) { return a[0].columns(); },
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
        },
};

}  // namespace omni_id::operators
