// The optimizer, over all parameters at once: they lie in one vector, and so do their gradients and moments.
//   gradient_norm: norm [1] = sqrt(Σ gradients²), over those segments of the vector that `counted` is not 0 for; over all of it
//     without segments. What is frozen inside of a matrix that is read as one has gradients too, and does not count, as in
//     PyTorch, where the norm is one of the parameters that are trained.
//   adamw: AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) as in PyTorch, with clipping by the
//     global norm and an exponential moving average of the values:
//       g = gradients · min(1, maxNorm / (norm + 1e-6))            (maxNorm 0: no clipping)
//       values ← values · (1 − rate · decay); m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²
//       values ← values − rate · (m / c₁) / (sqrt(v / c₂) + ε); average ← average + (1 − d) · (values − average)
//     where `settings` [5] holds the learning rate, c₁ = 1 − β₁ᵗ, c₂ = 1 − β₂ᵗ, maxNorm and d, and segment s of the vector,
//     [segments[s], segments[s + 1]), has its own rate (learning rate · rates[s]) and decays[s].
//     When the norm is not finite nothing changes: the step is skipped on the device, before anybody has read the loss.
// Outputs may be bound to the memory of the inputs of the same name: every element is read before it is written.
#include <cmath>

#include "cpu/operators/operators.h"
#include "graph/operators.h"
#include "graph/rounding.h"

namespace omni_id::operators {

namespace {

constexpr const char* kName = "adamw";
enum Input { kValues, kGradients, kFirst, kSecond, kNorm, kSettings, kSegments, kRates, kDecays, kAverage };

std::vector<TensorType> norm_shapes(const Arguments& a) {
  require(a[0].dtype == DType::f32 && a[0].shape.size() == 1, "gradient_norm", "gradients are " + to_string(a[0]));
  require(a.has(1) == a.has(2), "gradient_norm", "segments and counted go together");
  require(!a.has(1) || (a[2].elements() > 0 && a[2] == TensorType{DType::f32, {a[2].elements()}} &&
                        a[1].shape == Shape{a[2].elements() + 1}),
          "gradient_norm", "segments and counted do not fit each other");
  return {{DType::f32, {1}}};
}

void norm_reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  double sum = 0.0;
  const auto add = [&](double begin, double end) {
    for (size_t i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) sum += in[0].values[i] * in[0].values[i];
  };
  if (!a.has(1)) add(0.0, static_cast<double>(a[0].elements()));
  for (size_t s = 0; a.has(1) && s < in[2].values.size(); ++s) {
    if (in[2].values[s] != 0.0) add(in[1].values[s], in[1].values[s + 1]);
  }
  out[0].values[0] = std::sqrt(sum);
  // Partial sums of a chunk's lanes are in f32, the others in double precision; the root takes half of a sum's error.
  out[0].errors[0] = kRoundingF32 * (roundings_of_positives(1024) / 2.0 + 1.0) * out[0].values[0];
}

std::vector<TensorType> shapes(const Arguments& a) {
  const TensorType& values = a[kValues];
  require(values.dtype == DType::f32 && values.shape.size() == 1, kName, "values are " + to_string(values));
  for (const Input same : {kGradients, kFirst, kSecond}) {
    require(a[same] == values, kName, "values " + to_string(values) + " and " + to_string(a[same]) + " do not fit");
  }
  require(!a.has(kAverage) || a[kAverage] == values, kName, "average does not fit values " + to_string(values));
  require(a[kNorm] == TensorType{DType::f32, {1}} && a[kSettings] == TensorType{DType::f32, {5}}, kName,
          "norm and settings are " + to_string(a[kNorm]) + " and " + to_string(a[kSettings]));
  const int64_t segments = a[kRates].elements();
  require(segments > 0 && a[kSegments].shape == Shape{segments + 1} && a[kRates] == TensorType{DType::f32, {segments}} &&
              a[kDecays] == a[kRates],
          kName, "segments, rates and decays do not fit each other");
  std::vector<TensorType> outputs{values, values, values};
  if (a.has(kAverage)) outputs.push_back(values);
  return outputs;
}

void reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const double beta1 = a.number("beta1"), beta2 = a.number("beta2"), u = kRoundingF32;
  const std::vector<double>& settings = in[kSettings].values;
  const double clip = settings[3] > 0.0 ? std::min(1.0, settings[3] / (in[kNorm].values[0] + 1e-6)) : 1.0;
  for (int64_t s = 0; s < a[kRates].elements(); ++s) {
    const double rate = settings[0] * in[kRates].values[s], decay = in[kDecays].values[s];
    for (int64_t i = static_cast<int64_t>(in[kSegments].values[s]); i < static_cast<int64_t>(in[kSegments].values[s + 1]);
         ++i) {
      const double g = in[kGradients].values[i] * clip;
      const double m1 = beta1 * in[kFirst].values[i], m2 = (1.0 - beta1) * g, m = m1 + m2;
      const double v = beta2 * in[kSecond].values[i] + (1.0 - beta2) * g * g;
      const double m_error = 5.0 * u * (std::abs(m1) + std::abs(m2)), v_error = 8.0 * u * v;
      const double root = std::sqrt(v / settings[2]), below = root + a.number("epsilon");
      const double move = rate * m / settings[1] / below;
      const double kept = in[kValues].values[i] * (1.0 - rate * decay), value = kept - move;
      const double value_error = 3.0 * u * std::abs(kept) + u * std::abs(value) +
                                 std::abs(rate / settings[1] / below) * m_error + std::abs(move) * u * 14.0;
      out[0].values[i] = value;
      out[0].errors[i] = value_error;
      out[1].values[i] = m;
      out[1].errors[i] = m_error;
      out[2].values[i] = v;
      out[2].errors[i] = v_error;
      if (!a.has(kAverage)) continue;
      const double old = settings[4] * in[kAverage].values[i], added = (1.0 - settings[4]) * value;
      out[3].values[i] = old + added;
      out[3].errors[i] =
          std::abs(1.0 - settings[4]) * value_error + 3.0 * u * (std::abs(old) + std::abs(added) + std::abs(value));
    }
  }
}

// Some segments count, others do not.
void fit_norm_inputs(const Arguments&, std::vector<ReferenceTensor>& in) {
  for (double& value : in[2].values) value = value > 0.0 ? 1.0 : 0.0;
}

// Second moments, the norm, the settings, rates and decays are positive.
void fit_inputs(const Arguments&, std::vector<ReferenceTensor>& in) {
  for (const Input input : {kSecond, kNorm, kSettings, kRates, kDecays}) {
    for (double& value : in[input].values) value = std::abs(value) + 0.1;
  }
}

}  // namespace

const OperatorRow gradient_norm = {
    .name = "gradient_norm",
    .inputs = {{"gradients", InputRole::plain}, {"segments", InputRole::index, true}, {"counted", InputRole::plain, true}},
    .attributes = {},
    .shapes = norm_shapes,
    .cpu = cpu::make_gradient_norm,
    .reference = norm_reference,
    .fit_inputs = fit_norm_inputs,
    .flops = [](const Arguments& a) { return 2.0 * static_cast<double>(a[0].elements()); },
    .sum_length = [](const Arguments& a) { return a[0].elements(); },
    .cases = {{{{1}}, {}, {}},
              {{{1001}}, {}, {}},
              {{{40000}}, {}, {}},
              {{{200000}, {7}, {6}}, {}, {{1, {0, 17, 17, 70000, 140001, 150000, 200000}}}}},
};

const OperatorRow adamw = {
    .name = kName,
    .inputs = {{"values", InputRole::plain},
               {"gradients", InputRole::plain},
               {"first_moments", InputRole::plain},
               {"second_moments", InputRole::plain},
               {"norm", InputRole::plain},
               {"settings", InputRole::plain},
               {"segments", InputRole::index},
               {"rates", InputRole::plain},
               {"decays", InputRole::plain},
               {"average", InputRole::plain, true}},
    .attributes = {{"beta1", 0.9}, {"beta2", 0.95}, {"epsilon", 1e-8}},
    .shapes = shapes,
    .cpu = cpu::make_adamw,
    .reference = reference,
    .fit_inputs = fit_inputs,
    .flops = [](const Arguments& a) { return 16.0 * static_cast<double>(a[0].elements()); },
    .sum_length = [](const Arguments&) { return int64_t{2}; },
    .cases =
        {
            {{{70}, {70}, {70}, {70}, {1}, {5}, {3}, {2}, {2}, {}}, {}, {{6, {0, 33, 70}}}},
            {
                {{1000}, {1000}, {1000}, {1000}, {1}, {5}, {4}, {3}, {3}, {1000}},
                {{"beta2", 0.999}},
                {{6, {0, 17, 17, 1000}}},
            },
            {
                {{9002}, {9002}, {9002}, {9002}, {1}, {5}, {6}, {5}, {5}, {9002}},
                {},
                {{6, {0, 3, 1024, 4095, 4097, 9002}}},
            },
        },
};

}  // namespace omni_id::operators
