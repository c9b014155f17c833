// layer_norm: y = (x − mean(x)) / sqrt(var(x) + ε) · weight + bias over the last dimension; `output` is the dtype of y.
#include <cmath>

#include "cpu/operators/operators.h"
#include "graph/operators.h"
#include "graph/rounding.h"

namespace omni_id::operators {

namespace {

constexpr const char* kName = "layer_norm";

std::vector<TensorType> shapes(const Arguments& a) {
  const TensorType& x = a[0];
  require(x.dtype == DType::f32 && x.shape.size() == 2 && x.columns() > 0, kName,
          "x is " + to_string(x) + ", expected f32 and two dimensions");
  for (size_t i : {1, 2}) {
    require(a[i] == TensorType{DType::f32, {x.columns()}}, kName,
            std::string(i == 1 ? "weight" : "bias") + " is " + to_string(a[i]) + ", expected f32[" +
                std::to_string(x.columns()) + "]");
  }
  require(a.number("epsilon") >= 0.0, kName, "epsilon must not be negative");
  const TensorType y{dtype_named(a.text("output")), x.shape};
  require(y.dtype == DType::f32 || y.dtype == DType::bf16, kName, "output must be f32 or bf16");
  return {y};
}

int64_t sum_length(const Arguments& a) { return a[0].columns(); }

// Errors: the mean's, which moves a whole row; the variance's, a sum of squares, of which the root takes half; and of every
// value the roundings of the difference, of two products and of the last addition.
void reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const int64_t rows = a[0].shape[0], n = a[0].columns();
  for (int64_t i = 0; i < rows; ++i) {
    const double* x = in[0].values.data() + i * n;
    double mean = 0.0, magnitude = 0.0, variance = 0.0;
    for (int64_t j = 0; j < n; ++j) {
      mean += x[j] / static_cast<double>(n);
      magnitude += std::abs(x[j]) / static_cast<double>(n);
    }
    for (int64_t j = 0; j < n; ++j) variance += (x[j] - mean) * (x[j] - mean) / static_cast<double>(n);
    const double rstd = 1.0 / std::sqrt(variance + a.number("epsilon"));
    const double mean_error = n == 1 ? 0.0 : roundings_of_products(sum_length(a)) * magnitude + std::abs(mean);
    const double rstd_error = (roundings_of_positives(sum_length(a)) + 3.0) / 2.0 + 2.0;  // relative
    for (int64_t j = 0; j < n; ++j) {
      const double scaled = (x[j] - mean) * rstd * in[1].values[j], y = scaled + in[2].values[j];
      const double roundings =
          mean_error * rstd * std::abs(in[1].values[j]) + (rstd_error + 3.0) * std::abs(scaled) + std::abs(y);
      out[0].values[i * n + j] = y;
      out[0].errors[i * n + j] = kRoundingF32 * roundings;
    }
  }
}

}  // namespace

const OperatorRow layer_norm = {
    .name = kName,
    .inputs = {{"x", InputRole::plain}, {"weight", InputRole::plain}, {"bias", InputRole::plain}},
    .attributes = {{"epsilon", 1e-5}, {"output", std::string("f32")}},
    .shapes = shapes,
    .cpu = cpu::make_layer_norm,
    .reference = reference,
    .flops = [](const Arguments& a) { return 8.0 * static_cast<double>(a[0].elements()); },
    .sum_length = sum_length,
    .cases =
        {
            {{{1, 1}, {1}, {1}}, {}, {}},
            {{{3, 7}, {7}, {7}}, {}, {}},
            {{{17, 48}, {48}, {48}}, {{"epsilon", 1e-6}}, {}},
            {{{5, 1281}, {1281}, {1281}}, {}, {}},
            {{{0, 8}, {8}, {8}}, {}, {}},
            {{{9, 384}, {384}, {384}}, {}, {}},
            {{{9, 1280}, {1280}, {1280}}, {}, {}},
            {{{2, 1540}, {1540}, {1540}}, {{"output", std::string("bf16")}}, {}},
            {{{2, 8200}, {8200}, {8200}}, {}, {}},
            {{{3, 7}, {7}, {7}}, {{"output", std::string("bf16")}}, {}},
            {{{33, 131}, {131}, {131}}, {{"output", std::string("bf16")}}, {}},
        },
};

}  // namespace omni_id::operators
