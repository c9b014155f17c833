// The gradients of linear, y = activation(x · Wᵀ + b), of which d is the loss's gradient by x · Wᵀ + b:
//   linear_input_gradient:  dx = d · W (⊙ activation'(derivative_at)) + sum
//   linear_weight_gradient: dW = dᵀ · activation(x) + sum
// d [rows, outputs], W [outputs, …inputs], x, dx, derivative_at [rows, inputs]; sums are gradients that are known already, of
// the same shape in f32. `activation` is that of the layer before, whose product was derivative_at and whose result was x: its
// gradient is part of the epilogue, so that dx is the gradient of that product. Neither W nor d nor x is written out
// transposed.
#include "cpu/operators/operators.h"
#include "graph/operators.h"
#include "operators/activations.h"
#include "operators/products.h"

namespace omni_id::operators {

namespace {

constexpr const char* kInput = "linear_input_gradient";
constexpr const char* kWeight = "linear_weight_gradient";

std::vector<TensorType> input_shapes(const Arguments& a) {
  const TensorType &d = a[0], &weight = a[1];
  require(d.shape.size() == 2 && !weight.shape.empty() && weight.shape[0] > 0 && d.columns() == weight.shape[0] &&
              weight.elements() > 0,
          kInput, "weight " + to_string(weight) + " does not fit d " + to_string(d));
  const TensorType dx{dtype_named(a.text("output")), {d.shape[0], weight.elements() / weight.shape[0]}};
  require(dx.dtype == DType::f32 || dx.dtype == DType::bf16, kInput, "output must be f32 or bf16");
  require(a.has(2) == (a.text("activation") != "none"), kInput, "derivative_at and activation go together");
  require(!a.has(2) || a[2].shape == dx.shape, kInput, "derivative_at does not fit dx " + to_string(dx));
  require(!a.has(3) || a[3] == TensorType{DType::f32, dx.shape}, kInput, "sum does not fit dx " + to_string(dx));
  require_activation(a.text("activation"), kInput);
  require_compute(a, kInput);
  return {dx};
}

void input_reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const int64_t rows = a[0].shape[0], k = a[0].columns(), n = a[1].elements() / a[1].shape[0];
  const bool to_bf16 = a.text("output") == "bf16";
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      ProductSum product(k, product_type(a, a[1]), a[0].dtype, a[1].dtype);
      for (int64_t l = 0; l < k; ++l) product.add(in[0].values[i * k + l], in[1].values[l * n + j]);
      double value = product.value(), error = product.error();
      if (a.has(2)) {
        const Activated slope = derivative_of_activation(in[2].values[i * n + j], a.text("activation"), to_bf16);
        error = error * (std::abs(slope.value) + slope.error) + std::abs(value) * slope.error;
        value *= slope.value;
        error += kRoundingF32 * std::abs(value);
      }
      if (a.has(3)) {
        value += in[3].values[i * n + j];
        error += kRoundingF32 * std::abs(value);
      }
      out[0].values[i * n + j] = value;
      out[0].errors[i * n + j] = error;
    }
  }
}

std::vector<TensorType> weight_shapes(const Arguments& a) {
  const TensorType &d = a[0], &x = a[1];
  require(d.shape.size() == 2 && x.shape.size() == 2 && d.shape[0] == x.shape[0] && d.elements() > 0 && x.elements() > 0,
          kWeight, "d " + to_string(d) + " does not fit x " + to_string(x));
  const TensorType dw{DType::f32, {d.columns(), x.columns()}};
  require(!a.has(2) || (a[2].dtype == DType::f32 && a[2].elements() == dw.elements()), kWeight,
          "sum does not fit " + to_string(dw));
  require_activation(a.text("activation"), kWeight);
  require_compute(a, kWeight);
  return {dw};
}

void weight_reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const int64_t k = a[0].shape[0], m = a[0].columns(), n = a[1].columns();
  const DType product_dtype = product_type(a, a[1]);
  const bool has_activation = a.text("activation") != "none";
  // An activation's result is f32, whatever x is, before it is rounded for the product.
  const DType x_dtype = has_activation ? DType::f32 : a[1].dtype;
  std::vector<Activated> x;
  for (double value : in[1].values) x.push_back(activated(value, 0.0, a.text("activation"), product_dtype == DType::bf16));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      ProductSum product(k, product_dtype, a[0].dtype, x_dtype);
      IndependentErrors of_activation;
      for (int64_t l = 0; l < k; ++l) {
        product.add(in[0].values[l * m + i], x[l * n + j].value);
        of_activation.add(std::abs(in[0].values[l * m + i]) * x[l * n + j].error);
      }
      const double value = product.value() + (a.has(2) ? in[2].values[i * n + j] : 0.0);
      out[0].values[i * n + j] = value;
      out[0].errors[i * n + j] = product.error() + of_activation.together() + (a.has(2) ? kRoundingF32 * std::abs(value) : 0.0);
    }
  }
}

const Attribute kBf16 = std::string("bf16"), kGelu = std::string("gelu"), kQuickGelu = std::string("quick_gelu");

}  // namespace

const OperatorRow linear_input_gradient = {
    .name = kInput,
    .inputs = {{"d", InputRole::plain},
               {"weight", InputRole::plain},
               {"derivative_at", InputRole::plain, true},
               {"sum", InputRole::plain, true}},
    .attributes = {{"activation", std::string("none")}, {"output", std::string("f32")}, {"compute", std::string()}},
    .shapes = input_shapes,
    .in_place_input = 3,
    .cpu = cpu::make_linear_input_gradient,
    .reference = input_reference,
    .flops = [](const Arguments& a) { return 2.0 * static_cast<double>(a[0].shape[0]) * static_cast<double>(a[1].elements()); },
    .sum_length = [](const Arguments& a) { return a[0].columns(); },
    .cases =
        {
            {{{1, 1}, {1, 1}, {}, {}}, {}, {}},
            {{{3, 5}, {5, 7}, {}, {}}, {}, {}},
            {{{14, 65}, {65, 33}, {}, {14, 33}}, {}, {}},
            {{{13, 31}, {31, 33}, {13, 33}, {}}, {{"activation", kGelu}}, {}},
            {{{27, 70}, {70, 130}, {27, 130}, {}}, {{"activation", kGelu}, {"output", kBf16}}, {}},
            {{{27, 70}, {70, 130}, {27, 130}, {}}, {{"activation", kQuickGelu}, {"output", kBf16}}, {}},
            {{{27, 70}, {70, 130}, {27, 130}, {27, 130}}, {{"activation", kQuickGelu}}, {}},
            {{{50, 700}, {700, 96}, {}, {50, 96}}, {{"compute", kBf16}}, {}},
            {{{20, 24}, {24, 3, 7, 7}, {}, {}}, {}, {}},
            // Several of the largest tiles.
            {{{140, 50}, {50, 152}, {}, {140, 152}}, {}, {}},
            {{{0, 16}, {16, 16}, {}, {}}, {}, {}},
        },
};

const OperatorRow linear_weight_gradient = {
    .name = kWeight,
    .inputs = {{"d", InputRole::plain}, {"x", InputRole::plain}, {"sum", InputRole::plain, true}},
    .attributes = {{"activation", std::string("none")}, {"compute", std::string()}},
    .shapes = weight_shapes,
    .in_place_input = 2,
    .cpu = cpu::make_linear_weight_gradient,
    .reference = weight_reference,
    .flops =
        [](const Arguments& a) { return 2.0 * static_cast<double>(a[0].elements()) * static_cast<double>(a[1].columns()); },
    .sum_length = [](const Arguments& a) { return a[0].shape[0]; },
    .cases =
        {
            {{{1, 1}, {1, 1}, {}}, {}, {}},
            {{{3, 5}, {3, 7}, {}}, {}, {}},
            {{{33, 13}, {33, 65}, {13, 65}}, {}, {}},
            {{{64, 48}, {64, 32}, {}}, {}, {}},
            {{{701, 50}, {701, 70}, {50, 70}}, {{"compute", kBf16}}, {}},
            {{{130, 97}, {130, 147}, {}}, {}, {}},
            // Sums long enough to be split, with small and with large tiles.
            {{{1030, 20}, {1030, 24}, {20, 24}}, {}, {}},
            {{{1030, 130}, {1030, 152}, {}}, {}, {}},
            {{{70, 33}, {70, 131}, {}}, {{"activation", kGelu}}, {}},
            {{{70, 33}, {70, 131}, {33, 131}}, {{"activation", kQuickGelu}, {"compute", kBf16}}, {}},
            {{{70, 33}, {70, 131}, {}}, {{"activation", kGelu}, {"compute", kBf16}}, {}},
        },
};

}  // namespace omni_id::operators
