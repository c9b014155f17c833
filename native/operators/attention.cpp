// attention: for every sequence s and head h, out = softmax(scale · q · kᵀ) · v
//   q and out [query tokens, heads · head_dim]; k and v [key tokens, heads · head_dim]; heads lie side by side in a row.
// Sequences follow each other in the rows. Either all have the same length (`sequences` of them), or they are ragged:
// `query_offsets` and `key_offsets` i32[sequences + 1], where sequence s owns rows [offsets[s], offsets[s + 1]), as in
// flash-attention's varlen functions. `scale` 0 stands for 1 / sqrt(head_dim). A sequence without keys gives zeros.
// With `statistics` 1 there is a second output, logsumexp f32[query tokens, heads]: ln Σ exp(scaled score) over the keys, from
// which the gradient recomputes the weights. It is 0 for a sequence without keys.
#include <cmath>

#include "cpu/operators/operators.h"
#include "graph/operators.h"
#include "graph/rounding.h"

namespace omni_id::operators {

namespace {

constexpr const char* kName = "attention";

std::vector<TensorType> shapes(const Arguments& a) {
  const TensorType &q = a[0], &k = a[1], &v = a[2];
  require(q.shape.size() == 2 && k.shape.size() == 2 && v.shape.size() == 2, kName,
          "q, k and v are " + to_string(q) + ", " + to_string(k) + ", " + to_string(v) + ", expected two dimensions");
  require(q.dtype == k.dtype && q.dtype == v.dtype, kName,
          "q, k and v are " + to_string(q) + ", " + to_string(k) + ", " + to_string(v) + ", expected one dtype");
  require(k.shape == v.shape && q.columns() == k.columns(), kName,
          "q " + to_string(q) + ", k " + to_string(k) + " and v " + to_string(v) + " do not fit");
  const int64_t heads = a.integer("heads"), sequences = a.integer("sequences");
  require(heads > 0 && q.columns() > 0 && q.columns() % heads == 0, kName,
          std::to_string(heads) + " heads do not divide " + std::to_string(q.columns()) + " columns");
  require(sequences > 0, kName, "sequences must be positive");
  require(a.has(3) == a.has(4), kName, "query_offsets and key_offsets go together");
  if (a.has(3)) {
    require(
        a[3].shape == Shape{sequences + 1} && a[4].shape == Shape{sequences + 1}, kName,
        "offsets are " + to_string(a[3]) + " and " + to_string(a[4]) + ", expected i32[" + std::to_string(sequences + 1) + "]");
  } else {
    require(q.shape[0] % sequences == 0 && k.shape[0] % sequences == 0, kName,
            std::to_string(sequences) + " sequences do not divide q " + to_string(q) + " and k " + to_string(k));
  }
  require(a.number("scale") >= 0.0, kName, "scale must not be negative");
  const int64_t statistics = a.integer("statistics");
  require(statistics == 0 || statistics == 1, kName, "statistics is " + std::to_string(statistics) + ", expected 0 or 1");
  if (statistics == 0) return {q};
  return {q, {DType::f32, {q.shape[0], heads}}};
}

int64_t sum_length(const Arguments& a) { return a[0].columns() / a.integer("heads") + a[1].shape[0]; }

// Errors: a score's, which is a sum of head_dim products, scaled and taken from the largest with a rounding each, and of the
// power's polynomial (cpu/kernels/attention.cpp) change a weight in proportion, and the result by weight · (v − result), since
// the weights add up to one; bf16 weights are rounded, which changes the result by weight · v; then come the sums of weights
// and of weighted values, and the division. A score's error changes logsumexp by weight · error. The polynomial's errors may
// all have one sign there, since nothing is taken off again; the sum's are relative, and so absolute in its logarithm.
void reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const int64_t heads = a.integer("heads"), sequences = a.integer("sequences"), width = a[0].columns();
  const int64_t dim = width / heads;
  const double scale = a.number("scale") > 0 ? a.number("scale") : 1.0 / std::sqrt(static_cast<double>(dim));
  const auto offset = [&](size_t input, int64_t s, int64_t tokens) {
    return a.has(3) ? static_cast<int64_t>(in[input].values[s]) : s * (tokens / sequences);
  };
  const bool bf16 = a[0].dtype == DType::bf16;
  const double power_error = bf16 ? 7e-5 : 8e-8 + 2.0 * kRoundingF32, weight_error = bf16 ? kRoundingBf16 : kRoundingF32;
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t k_begin = offset(4, s, a[1].shape[0]), k_end = offset(4, s + 1, a[1].shape[0]);
    for (int64_t i = offset(3, s, a[0].shape[0]); i < offset(3, s + 1, a[0].shape[0]); ++i) {
      for (int64_t h = 0; h < heads; ++h) {
        std::vector<double> weights(static_cast<size_t>(k_end - k_begin)), errors(weights.size());
        if (weights.empty()) continue;
        double top = -INFINITY, sum = 0.0;
        for (int64_t j = k_begin; j < k_end; ++j) {
          double dot = 0.0, magnitude = 0.0;
          for (int64_t d = 0; d < dim; ++d) {
            const double product = in[0].values[i * width + h * dim + d] * in[1].values[j * width + h * dim + d];
            dot += product;
            magnitude += std::abs(product);
          }
          weights[j - k_begin] = dot * scale;
          errors[j - k_begin] = kRoundingF32 * roundings_of_products(dim) * magnitude * scale + power_error;
          top = std::max(top, dot * scale);
        }
        for (size_t j = 0; j < weights.size(); ++j) {
          errors[j] += kRoundingF32 * (4.0 * (top - weights[j]) + std::abs(top));
          sum += weights[j] = std::exp(weights[j] - top);
        }
        for (double& w : weights) w /= sum;
        if (out.size() > 1) {
          const double logarithm = std::log(sum);
          IndependentErrors of_scores;
          for (size_t j = 0; j < weights.size(); ++j) of_scores.add(weights[j] * (errors[j] - power_error));
          out[1].values[i * heads + h] = top + logarithm;
          out[1].errors[i * heads + h] =
              of_scores.together() + power_error +
              kRoundingF32 * (roundings_of_positives(sum_length(a)) + 3.0 * std::abs(top) + 2.0 * logarithm);
        }
        for (int64_t d = 0; d < dim; ++d) {
          const auto v = [&](size_t j) { return in[2].values[(k_begin + static_cast<int64_t>(j)) * width + h * dim + d]; };
          double value = 0.0, magnitude = 0.0;
          for (size_t j = 0; j < weights.size(); ++j) {
            value += weights[j] * v(j);
            magnitude += weights[j] * std::abs(v(j));
          }
          IndependentErrors of_weights;
          for (size_t j = 0; j < weights.size(); ++j) {
            of_weights.add(weights[j] * (std::abs(v(j) - value) * errors[j] + std::abs(v(j)) * weight_error));
          }
          const double roundings = roundings_of_products(sum_length(a)) * magnitude +
                                   (roundings_of_positives(sum_length(a)) + 3.0) * std::abs(value);
          out[0].values[i * width + h * dim + d] = value;
          out[0].errors[i * width + h * dim + d] = of_weights.together() + kRoundingF32 * roundings;
        }
      }
    }
  }
}

Attributes of(int64_t heads, int64_t sequences, int64_t statistics = 0) {
  return {{"heads", heads}, {"sequences", sequences}, {"statistics", statistics}};
}

}  // namespace

const OperatorRow attention = {
    .name = kName,
    .inputs = {{"q", InputRole::plain},
               {"k", InputRole::plain},
               {"v", InputRole::plain},
               {"query_offsets", InputRole::index, true},
               {"key_offsets", InputRole::index, true}},
    .attributes = {{"heads", int64_t{1}}, {"sequences", int64_t{1}}, {"scale", 0.0}, {"statistics", int64_t{0}}},
    .shapes = shapes,
    .cpu = cpu::make_attention,
    .reference = reference,
    // Exact for one sequence or equal lengths; an upper bound for ragged ones, whose lengths are not known before a run.
    .flops =
        [](const Arguments& a) {
          return 4.0 * static_cast<double>(a[0].elements()) * static_cast<double>(a[1].shape[0]) /
                 static_cast<double>(a.integer("sequences"));
        },
    .sum_length = sum_length,
    .cases =
        {
            {{{1, 8}, {1, 8}, {1, 8}, {}, {}}, of(1, 1), {}},
            {{{10, 48}, {14, 48}, {14, 48}, {}, {}}, of(3, 2), {}},
            {{{33, 80}, {65, 80}, {65, 80}, {}, {}}, of(2, 1), {}},
            {{{21, 15}, {9, 15}, {9, 15}, {}, {}}, of(3, 3), {}},
            {{{257, 160}, {257, 160}, {257, 160}, {}, {}}, of(2, 1), {}},
            {{{30, 128}, {1300, 128}, {1300, 128}, {}, {}}, of(1, 1), {}},
            {{{9, 32}, {40, 32}, {40, 32}, {4}, {4}}, of(2, 3), {{3, {0, 4, 5, 9}}, {4, {0, 1, 34, 40}}}},
            // The second sequence has no keys, the third no queries.
            {{{6, 24}, {11, 24}, {11, 24}, {4}, {4}}, of(1, 3), {{3, {0, 4, 6, 6}}, {4, {0, 7, 7, 11}}}},
            {{{10, 48}, {14, 48}, {14, 48}, {}, {}}, of(3, 2, 1), {}},
            {{{3, 64}, {1300, 64}, {1300, 64}, {}, {}}, of(1, 1, 1), {}},
            {{{6, 24}, {11, 24}, {11, 24}, {4}, {4}}, of(1, 3, 1), {{3, {0, 4, 6, 6}}, {4, {0, 7, 7, 11}}}},
        },
};

}  // namespace omni_id::operators
