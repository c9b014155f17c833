// Operators on single elements and on columns:
//   add: y = a + b
//   activation_gradient: dx = dy ⊙ activation'(x), of the type of dy
//   column_sums: y[j] = Σ x[i, j] (+ sum[j]), the gradient of what is added to every row
#include "cpu/operators/operators.h"
#include "graph/operators.h"
#include "operators/activations.h"

namespace omni_id::operators {

namespace {

std::vector<TensorType> add_shapes(const Arguments& a) {
  require(a[0] == a[1], "add", to_string(a[0]) + " and " + to_string(a[1]) + " are not of one type");
  return {a[0]};
}

void add_reference(const Arguments&, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  for (size_t i = 0; i < out[0].values.size(); ++i) {
    out[0].values[i] = in[0].values[i] + in[1].values[i];
    out[0].errors[i] = kRoundingF32 * std::abs(out[0].values[i]);
  }
}

std::vector<TensorType> activation_shapes(const Arguments& a) {
  require(a[0].shape == a[1].shape, "activation_gradient", "x " + to_string(a[1]) + " does not fit dy " + to_string(a[0]));
  require_activation(a.text("activation"), "activation_gradient");
  return {a[0]};
}

void activation_reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  for (size_t i = 0; i < out[0].values.size(); ++i) {
    const Activated slope = derivative_of_activation(in[1].values[i], a.text("activation"), a[0].dtype == DType::bf16);
    out[0].values[i] = in[0].values[i] * slope.value;
    out[0].errors[i] = std::abs(in[0].values[i]) * slope.error + kRoundingF32 * std::abs(out[0].values[i]);
  }
}

std::vector<TensorType> column_shapes(const Arguments& a) {
  require(a[0].shape.size() == 2, "column_sums", "x is " + to_string(a[0]) + ", expected two dimensions");
  const TensorType y{DType::f32, {a[0].columns()}};
  require(!a.has(1) || a[1] == y, "column_sums", "sum does not fit x " + to_string(a[0]));
  return {y};
}

void column_reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const int64_t rows = a[0].shape[0], columns = a[0].columns();
  for (int64_t j = 0; j < columns; ++j) {
    double sum = a.has(1) ? in[1].values[j] : 0.0, magnitude = std::abs(sum);
    for (int64_t i = 0; i < rows; ++i) {
      sum += in[0].values[i * columns + j];
      magnitude += std::abs(in[0].values[i * columns + j]);
    }
    out[0].values[j] = sum;
    out[0].errors[j] = kRoundingF32 * roundings_of_products(rows + 1) * magnitude;
  }
}

double flops_of_first(const Arguments& a) { return static_cast<double>(a[0].elements()); }

}  // namespace

const OperatorRow add = {
    .name = "add",
    .inputs = {{"a", InputRole::plain}, {"b", InputRole::plain}},
    .attributes = {},
    .shapes = add_shapes,
    .in_place_input = 0,
    .cpu = cpu::make_add,
    .reference = add_reference,
    .flops = flops_of_first,
    .sum_length = [](const Arguments&) { return int64_t{2}; },
    .cases = {{{{1}, {1}}, {}, {}},
              {{{3, 7}, {3, 7}}, {}, {}},
              {{{70, 331}, {70, 331}}, {}, {}},
              {{{70, 328}, {70, 328}}, {}, {}},
              {{{0, 4}, {0, 4}}, {}, {}}},
};

const OperatorRow activation_gradient = {
    .name = "activation_gradient",
    .inputs = {{"dy", InputRole::plain}, {"x", InputRole::plain}},
    .attributes = {{"activation", std::string("gelu")}},
    .shapes = activation_shapes,
    .in_place_input = 0,
    .cpu = cpu::make_activation_gradient,
    .reference = activation_reference,
    .flops = [](const Arguments& a) { return 20.0 * static_cast<double>(a[0].elements()); },
    .sum_length = [](const Arguments&) { return int64_t{1}; },
    .cases = {{{{3, 7}, {3, 7}}, {}, {}},
              {{{60, 131}, {60, 131}}, {}, {}},
              {{{60, 128}, {60, 128}}, {}, {}},
              {{{60, 131}, {60, 131}}, {{"activation", std::string("quick_gelu")}}, {}},
              {{{2, 5}, {2, 5}}, {{"activation", std::string("none")}}, {}}},
};

const OperatorRow column_sums = {
    .name = "column_sums",
    .inputs = {{"x", InputRole::plain}, {"sum", InputRole::plain, true}},
    .attributes = {},
    .shapes = column_shapes,
    .in_place_input = 1,
    .cpu = cpu::make_column_sums,
    .reference = column_reference,
    .flops = flops_of_first,
    .sum_length = [](const Arguments& a) { return a[0].shape[0]; },
    .cases = {{{{1, 1}, {}}, {}, {}},
              {{{13, 7}, {7}}, {}, {}},
              {{{300, 131}, {131}}, {}, {}},
              {{{300, 264}, {264}}, {}, {}},
              {{{0, 4}, {}}, {}, {}}},
};

}  // namespace omni_id::operators
