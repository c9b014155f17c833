// layer_norm_gradient: of y = x̂ ⊙ weight + bias, x̂ = (x − mean) / sqrt(var + ε), over each row of n columns:
//   dx = (g − mean(g) − x̂ · mean(g ⊙ x̂)) / sqrt(var + ε) + sum,  g = dy ⊙ weight
//   dweight = Σ rows dy ⊙ x̂,  dbias = Σ rows dy
// mean and variance are computed again from x, which the forward pass keeps anyway. `sum` is what is known of dx already: that
// of the residual stream, which every norm reads from.
#include <cmath>

#include "cpu/operators/operators.h"
#include "graph/operators.h"
#include "graph/rounding.h"

namespace omni_id::operators {

namespace {

constexpr const char* kName = "layer_norm_gradient";

std::vector<TensorType> shapes(const Arguments& a) {
  const TensorType &dy = a[0], &x = a[1];
  require(x.dtype == DType::f32 && x.shape.size() == 2 && x.columns() > 0 && dy.shape == x.shape, kName,
          "dy " + to_string(dy) + " and x " + to_string(x) + " do not fit");
  require(a[2] == TensorType{DType::f32, {x.columns()}}, kName, "weight is " + to_string(a[2]));
  require(!a.has(3) || a[3] == x, kName, "sum does not fit x " + to_string(x));
  require(a.number("epsilon") >= 0.0, kName, "epsilon must not be negative");
  return {x, a[2], a[2]};
}

// Errors: x̂'s as in layer_norm; those of the two means, which move a whole row; and the roundings of the last sums and
// products.
void reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const int64_t rows = a[1].shape[0], n = a[1].columns();
  const double count = static_cast<double>(n), u = kRoundingF32;
  std::vector<double> weight_magnitude(static_cast<size_t>(n)), bias_magnitude(weight_magnitude);
  std::vector<IndependentErrors> weight_errors(static_cast<size_t>(n));
  for (int64_t i = 0; i < rows; ++i) {
    const double *dy = in[0].values.data() + i * n, *x = in[1].values.data() + i * n, *weight = in[2].values.data();
    double mean = 0.0, magnitude = 0.0, variance = 0.0;
    for (int64_t j = 0; j < n; ++j) {
      mean += x[j] / count;
      magnitude += std::abs(x[j]) / count;
    }
    for (int64_t j = 0; j < n; ++j) variance += (x[j] - mean) * (x[j] - mean) / count;
    const double rstd = 1.0 / std::sqrt(variance + a.number("epsilon"));
    const double mean_error = n == 1 ? 0.0 : roundings_of_products(n) * magnitude + std::abs(mean);
    const double rstd_error = (roundings_of_positives(n) + 3.0) / 2.0 + 2.0;  // relative
    const auto normal = [&](int64_t j) { return (x[j] - mean) * rstd; };
    const auto normal_error = [&](int64_t j) { return u * (mean_error * rstd + (rstd_error + 2.0) * std::abs(normal(j))); };
    double g_mean = 0.0, g_magnitude = 0.0, gx_mean = 0.0, gx_magnitude = 0.0, gx_error = 0.0;
    for (int64_t j = 0; j < n; ++j) {
      const double g = dy[j] * weight[j];
      g_mean += g / count;
      g_magnitude += std::abs(g) / count;
      gx_mean += g * normal(j) / count;
      gx_magnitude += std::abs(g * normal(j)) / count;
      gx_error += std::abs(g) * normal_error(j) / count;
    }
    const double g_error = u * ((roundings_of_products(n) + 1.0) * g_magnitude + std::abs(g_mean));
    gx_error += u * ((roundings_of_products(n) + 3.0) * gx_magnitude + std::abs(gx_mean));
    for (int64_t j = 0; j < n; ++j) {
      const double g = dy[j] * weight[j], inner = g - g_mean - normal(j) * gx_mean;
      double error = rstd * (g_error + std::abs(normal(j)) * gx_error + std::abs(gx_mean) * normal_error(j) +
                             u * (3.0 * std::abs(g) + 2.0 * std::abs(g_mean) + 2.0 * std::abs(normal(j) * gx_mean))) +
                     u * (rstd_error + 1.0) * std::abs(inner * rstd);
      double value = inner * rstd;
      if (a.has(3)) {
        value += in[3].values[i * n + j];
        error += u * std::abs(value);
      }
      out[0].values[i * n + j] = value;
      out[0].errors[i * n + j] = error;
      out[1].values[j] += dy[j] * normal(j);
      out[2].values[j] += dy[j];
      weight_magnitude[j] += std::abs(dy[j] * normal(j));
      bias_magnitude[j] += std::abs(dy[j]);
      weight_errors[j].add(std::abs(dy[j]) * normal_error(j));
    }
  }
  for (int64_t j = 0; j < n; ++j) {
    out[1].errors[j] = weight_errors[j].together() + u * (roundings_of_products(rows) + 1.0) * weight_magnitude[j];
    out[2].errors[j] = u * roundings_of_products(rows) * bias_magnitude[j];
  }
}

}  // namespace

const OperatorRow layer_norm_gradient = {
    .name = kName,
    .inputs = {{"dy", InputRole::plain},
               {"x", InputRole::plain},
               {"weight", InputRole::plain},
               {"sum", InputRole::plain, true}},
    .attributes = {{"epsilon", 1e-5}},
    .shapes = shapes,
    .in_place_input = 3,
    .cpu = cpu::make_layer_norm_gradient,
    .reference = reference,
    .flops = [](const Arguments& a) { return 20.0 * static_cast<double>(a[0].elements()); },
    .sum_length = [](const Arguments& a) { return std::max(a[1].columns(), a[1].shape[0]); },
    .cases =
        {
            {{{3, 7}, {3, 7}, {7}, {}}, {}, {}},
            {{{17, 48}, {17, 48}, {48}, {17, 48}}, {{"epsilon", 1e-6}}, {}},
            {{{5, 1281}, {5, 1281}, {1281}, {}}, {}, {}},
            {{{300, 33}, {300, 33}, {33}, {300, 33}}, {}, {}},
            {{{0, 8}, {0, 8}, {8}, {}}, {}, {}},
            {{{41, 256}, {41, 256}, {256}, {}}, {}, {}},
            {{{9, 1280}, {9, 1280}, {1280}, {9, 1280}}, {}, {}},
            {{{5, 4100}, {5, 4100}, {4100}, {5, 4100}}, {}, {}},
        },
};

}  // namespace omni_id::operators
