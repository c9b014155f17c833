// gate_gradient: of y = gate ⊙ activation(value), linear's product before its residual:
//   d = gate ⊙ dy, the gradient by activation(value); `output` is its dtype
//   dgate = Σ dy ⊙ activation(value) over the rows of each gate
// dy, value and d [rows, n], gate and dgate [gates, n] (gates.h). Without value, of a gate that does not learn, there is no
// dgate.
#include "cpu/operators/operators.h"
#include "graph/operators.h"
#include "graph/rounding.h"
#include "operators/activations.h"
#include "operators/gates.h"

namespace omni_id::operators {

namespace {

constexpr const char* kName = "gate_gradient";

std::vector<TensorType> shapes(const Arguments& a) {
  const TensorType& dy = a[0];
  require(dy.shape.size() == 2, kName, "dy is " + to_string(dy) + ", expected two dimensions");
  require_gate(a[1], dy, kName);
  if (a.has(2)) {
    require(a[2].shape == dy.shape, kName, "value is " + to_string(a[2]) + ", expected " + to_string(dy.shape));
  }
  require_activation(a.text("activation"), kName);
  require(a.has(2) || a.text("activation") == "none", kName,
          "activation \"" + a.text("activation") + "\" without value, expected both or none");
  const TensorType d{dtype_named(a.text("output")), dy.shape};
  require(d.dtype == DType::f32 || d.dtype == DType::bf16, kName, "output must be f32 or bf16");
  if (!a.has(2)) return {d};
  return {d, a[1]};
}

void reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const int64_t gates = a[1].shape[0], n = a[0].columns(), rows = rows_per_gate(a[1], a[0].shape[0]);
  for (int64_t gate = 0; gate < gates; ++gate) {
    for (int64_t j = 0; j < n; ++j) {
      const double factor = in[1].values[gate * n + j];
      double sum = 0.0, magnitude = 0.0;
      IndependentErrors of_activation;
      for (int64_t i = gate * rows; i < (gate + 1) * rows; ++i) {
        const double dy = in[0].values[i * n + j];
        out[0].values[i * n + j] = factor * dy;
        out[0].errors[i * n + j] = kRoundingF32 * std::abs(factor * dy);
        if (!a.has(2)) continue;
        const auto [value, error] = activated(in[2].values[i * n + j], 0.0, a.text("activation"), false);
        sum += dy * value;
        magnitude += std::abs(dy * value);
        of_activation.add(std::abs(dy) * error);
      }
      if (!a.has(2)) continue;
      out[1].values[gate * n + j] = sum;
      out[1].errors[gate * n + j] = of_activation.together() + kRoundingF32 * roundings_of_products(rows) * magnitude;
    }
  }
}

const Attribute kBf16 = std::string("bf16"), kGelu = std::string("gelu"), kQuickGelu = std::string("quick_gelu");

}  // namespace

const OperatorRow gate_gradient = {
    .name = kName,
    .inputs = {{"dy", InputRole::plain}, {"gate", InputRole::plain}, {"value", InputRole::plain, true}},
    .attributes = {{"activation", std::string("none")}, {"output", std::string("f32")}},
    .shapes = shapes,
    .in_place_input = 0,
    .cpu = cpu::make_gate_gradient,
    .reference = reference,
    .flops = [](const Arguments& a) { return (a.has(2) ? 3.0 : 1.0) * static_cast<double>(a[0].elements()); },
    .sum_length = [](const Arguments& a) { return rows_per_gate(a[1], a[0].shape[0]); },
    .cases =
        {
            {{{1, 1}, {1, 1}, {1, 1}}, {}, {}},
            {{{3, 7}, {1, 7}, {}}, {}, {}},
            {{{12, 33}, {4, 33}, {12, 33}}, {{"output", kBf16}}, {}},
            {{{13, 31}, {13, 31}, {13, 31}}, {}, {}},
            {{{64, 16}, {2, 16}, {}}, {{"output", kBf16}}, {}},
            // Groups whose sums are made of several.
            {{{300, 131}, {2, 131}, {300, 131}}, {}, {}},
            {{{303, 264}, {3, 264}, {303, 264}}, {{"activation", kGelu}, {"output", kBf16}}, {}},
            {{{70, 40}, {5, 40}, {70, 40}}, {{"activation", kQuickGelu}}, {}},
            {{{0, 8}, {2, 8}, {0, 8}}, {}, {}},
            {{{0, 8}, {0, 8}, {0, 8}}, {}, {}},
        },
};

}  // namespace omni_id::operators
