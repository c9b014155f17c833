// linear: y = gate ⊙ activation(x · Wᵀ + b) + residual
//   x [rows, inputs], W [outputs, …inputs], b [outputs], residual and y [rows, outputs], gate [gates, outputs] (gates.h);
//   `output` is the dtype of y.
// Everything after the product costs nothing extra: it is part of the product's epilogue. With `keep` 1 there is a second
// output, x · Wᵀ + b of the type of y, which the gradients of the activation and of the gate need.

#include "cpu/operators/operators.h"
#include "graph/operators.h"
#include "operators/activations.h"
#include "operators/gates.h"
#include "operators/products.h"

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
  if (a.has(4)) require_gate(a[4], y, kName);
  require_activation(a.text("activation"), kName);
  require_compute(a, kName);
  if (a.integer("keep") == 0) return {y};
  return {y, y};
}

int64_t sum_length(const Arguments& a) { return a[0].columns(); }

void reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const int64_t rows = a[0].shape[0], k = a[0].columns(), n = a[1].shape[0];
  const bool to_bf16 = a.text("output") == "bf16";
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      ProductSum product(k, product_type(a, a[1]), a[0].dtype, a[1].dtype);
      for (int64_t l = 0; l < k; ++l) product.add(in[0].values[i * k + l], in[1].values[j * k + l]);
      const double sum = product.value() + (a.has(2) ? in[2].values[j] : 0.0);
      const double sum_error = product.error() + (a.has(2) ? kRoundingF32 * std::abs(sum) : 0.0);
      auto [y, y_error] = activated(sum, sum_error, a.text("activation"), to_bf16);
      if (a.has(4)) {
        const double gate = in[4].values[i / rows_per_gate(a[4], rows) * n + j];
        y *= gate;
        y_error = std::abs(gate) * y_error + kRoundingF32 * std::abs(y);
      }
      if (a.has(3)) {
        y += in[3].values[i * n + j];
        y_error += kRoundingF32 * std::abs(y);
      }
      out[0].values[i * n + j] = y;
      out[0].errors[i * n + j] = y_error;
      if (out.size() == 1) continue;
      out[1].values[i * n + j] = sum;
      out[1].errors[i * n + j] = sum_error;
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
               {"residual", InputRole::plain, true},
               {"gate", InputRole::plain, true}},
    .attributes = {{"activation", std::string("none")},
                   {"output", std::string("f32")},
                   {"compute", std::string()},
                   {"keep", int64_t{0}}},
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
            {{{37, 100}, {71, 100}, {71}, {}}, {{"activation", std::string("gelu")}, {"keep", int64_t{1}}}, {}},
            {{{30, 33}, {40, 33}, {40}, {}},
             {{"activation", std::string("gelu")}, {"output", std::string("bf16")}, {"keep", int64_t{1}}},
             {}},
            {{{37, 100}, {71, 100}, {71}, {}}, {{"compute", std::string("bf16")}}, {}},
            // Sums between −4 and 4, where the activations curve.
            {{{40, 1}, {96, 1}, {96}, {}}, to_bf16("gelu"), {}},
            {{{40, 1}, {96, 1}, {96}, {}}, to_bf16("quick_gelu"), {}},
            // Gates: one for all rows, one for each, and for groups of some.
            {{{37, 100}, {71, 100}, {71}, {37, 71}, {1, 71}}, {}, {}},
            {{{13, 33}, {31, 33}, {}, {}, {13, 31}}, to_bf16("none"), {}},
            {{{36, 65}, {33, 65}, {}, {36, 33}, {3, 33}}, with_activation("quick_gelu"), {}},
            {{{36, 100}, {72, 100}, {72}, {36, 72}, {4, 72}}, to_bf16("gelu"), {}},
            {{{30, 33}, {40, 33}, {40}, {}, {5, 40}}, {{"keep", int64_t{1}}}, {}},
            {{{30, 33}, {40, 33}, {40}, {30, 40}, {2, 40}},
             {{"activation", std::string("gelu")}, {"output", std::string("bf16")}, {"keep", int64_t{1}}},
             {}},
            {{{26, 100}, {71, 100}, {71}, {26, 71}, {2, 71}}, {{"compute", std::string("bf16")}}, {}},
            // Of little depth, and of so much that it is split.
            {{{40, 1}, {96, 1}, {96}, {40, 96}, {8, 96}}, with_activation("gelu"), {}},
            {{{14, 1100}, {36, 1100}, {36}, {14, 36}, {2, 36}}, {}, {}},
            {{{0, 16}, {16, 16}, {16}, {}, {2, 16}}, {}, {}},
            {{{0, 16}, {16, 16}, {16}, {}, {0, 16}}, {}, {}},
        },
};

}  // namespace omni_id::operators
