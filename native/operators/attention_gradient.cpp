// attention_gradient: from the gradient of attention's output those of q, k and v; for every sequence and head, with the
// weights p_ij = exp(scale · q_i · k_j − logsumexp_i) and D_i = dout_i · out_i,
//   dv_j = Σ_i p_ij dout_i,   ds_ij = p_ij (dout_i · v_j − D_i),   dq_i = scale · Σ_j ds_ij k_j,   dk_j = scale · Σ_i ds_ij q_i
//   dout, q, out and dq [query tokens, heads · head_dim]; k, v, dk and dv [key tokens, heads · head_dim];
//   logsumexp f32[query tokens, heads]. out and logsumexp are what attention gave with `statistics` 1.
// Offsets and attributes are attention's (attention.cpp). Without keys dq is 0, without queries dk and dv are.
#include <cmath>

#include "cpu/operators/operators.h"
#include "graph/operators.h"
#include "graph/rounding.h"

namespace omni_id::operators {

namespace {

constexpr const char* kName = "attention_gradient";

// What attention was given, with the inputs of the same names.
Arguments forward_arguments(const Arguments& a) {
  Attributes attributes = a.attributes;
  attributes["statistics"] = int64_t{1};
  return {{a.inputs[1], a.inputs[2], a.inputs[3], a.inputs[6], a.inputs[7]}, attributes};
}

std::vector<TensorType> shapes(const Arguments& a) {
  const std::vector<TensorType> forward = attention.shapes(forward_arguments(a));
  require(a[0] == a[1] && a[4] == a[1], kName,
          "dout " + to_string(a[0]) + " and out " + to_string(a[4]) + " are not as q " + to_string(a[1]));
  require(a[5] == forward[1], kName, "logsumexp is " + to_string(a[5]) + ", expected " + to_string(forward[1]));
  return {a[1], a[2], a[3]};
}

void fit_inputs(const Arguments& a, std::vector<ReferenceTensor>& in) {
  std::vector<ReferenceTensor> outputs;
  for (const size_t input : {4, 5}) {
    const std::vector<double> zeros(static_cast<size_t>(a[input].elements()), 0.0);
    outputs.push_back({a[input].shape, zeros, zeros});
  }
  attention.reference(forward_arguments(a), {in[1], in[2], in[3], in[6], in[7]}, outputs);
  in[4].values = outputs[0].values;
  in[5].values = outputs[1].values;
}

// An element of a gradient, Σ terms, and the bounds of the errors of its terms, which are independent.
struct Sum {
  double value = 0.0, magnitude = 0.0;
  IndependentErrors errors;

  void add(double factor, double error, double other) {
    value += factor * other;
    magnitude += std::abs(factor * other);
    errors.add(error * std::abs(other));
  }
  double error(double scale, int64_t terms) const {
    return scale * (errors.together() + kRoundingF32 * (roundings_of_products(terms) * magnitude + 3.0 * std::abs(value)));
  }
};

// Errors: a weight's is relative, that of its exponent: of the score, a sum of head_dim products, of the scale and of
// logsumexp, each of which is multiplied by a rounded number, and of the power's polynomial. dp and D are sums of head_dim
// products. In bf16 the weights and ds are rounded once more. All of them are independent from score to score but D's, which
// all scores of a query share: it changes dq by D's error · Σ_j p_ij k_j. Then comes the sum over keys or queries, and the
// scale.
void reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const auto &dout = in[0].values, &q = in[1].values, &k = in[2].values, &v = in[3].values, &forward = in[4].values;
  const int64_t heads = a.integer("heads"), sequences = a.integer("sequences"), width = a[1].columns(), dim = width / heads;
  const double scale = a.number("scale") > 0 ? a.number("scale") : 1.0 / std::sqrt(static_cast<double>(dim));
  const auto offset = [&](size_t input, int64_t s, int64_t tokens) {
    return a.has(6) ? static_cast<int64_t>(in[input].values[s]) : s * (tokens / sequences);
  };
  const bool bf16 = a[1].dtype == DType::bf16;
  const double power_error = bf16 ? 7e-5 : 8e-8 + 2.0 * kRoundingF32, narrowing = bf16 ? kRoundingBf16 : 0.0;
  const double roundings = kRoundingF32 * roundings_of_products(dim);
  struct Product {
    double value = 0.0, magnitude = 0.0;
  };
  const auto product = [&](const std::vector<double>& x, int64_t i, const std::vector<double>& y, int64_t j) {
    Product sum;
    for (int64_t d = 0; d < dim; ++d) {
      sum.value += x[i + d] * y[j + d];
      sum.magnitude += std::abs(x[i + d] * y[j + d]);
    }
    return sum;
  };
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t i_begin = offset(6, s, a[1].shape[0]), queries = offset(6, s + 1, a[1].shape[0]) - i_begin;
    const int64_t j_begin = offset(7, s, a[2].shape[0]), keys = offset(7, s + 1, a[2].shape[0]) - j_begin;
    for (int64_t h = 0; h < heads; ++h) {
      std::vector<Sum> dk(static_cast<size_t>(keys * dim)), dv(dk.size());
      for (int64_t row = 0; row < queries; ++row) {
        const int64_t i = (i_begin + row) * width + h * dim;
        const double logsumexp = in[5].values[(i_begin + row) * heads + h];
        const Product rowsum = product(dout, i, forward, i);
        std::vector<Sum> dq(static_cast<size_t>(dim));
        std::vector<double> weighted_keys(dq.size(), 0.0);
        for (int64_t column = 0; column < keys; ++column) {
          const int64_t j = (j_begin + column) * width + h * dim;
          const Product score = product(q, i, k, j), dp = product(dout, i, v, j);
          const double p = std::exp(scale * score.value - logsumexp), ds = p * (dp.value - rowsum.value);
          const double p_error = p * (scale * roundings * score.magnitude + power_error +
                                      kRoundingF32 * (4.0 * std::abs(scale * score.value) + 3.0 * std::abs(logsumexp)));
          const double relative = p > 0.0 ? p_error / p : 0.0;
          const double dp_error = p * roundings * dp.magnitude, rowsum_error = p * roundings * rowsum.magnitude;
          const double ds_error = std::abs(ds) * (relative + 2.0 * kRoundingF32 + narrowing) + dp_error;
          for (int64_t d = 0; d < dim; ++d) {
            dq[d].add(ds, ds_error, k[j + d]);
            weighted_keys[d] += p * k[j + d];
            dk[column * dim + d].add(ds, ds_error + rowsum_error, q[i + d]);
            dv[column * dim + d].add(p, p_error + p * narrowing, dout[i + d]);
          }
        }
        for (int64_t d = 0; d < dim; ++d) {
          out[0].values[i + d] = scale * dq[d].value;
          out[0].errors[i + d] = dq[d].error(scale, keys) + scale * roundings * rowsum.magnitude * std::abs(weighted_keys[d]);
        }
      }
      for (int64_t column = 0; column < keys; ++column) {
        for (int64_t d = 0; d < dim; ++d) {
          const int64_t at = (j_begin + column) * width + h * dim + d;
          out[1].values[at] = scale * dk[column * dim + d].value;
          out[1].errors[at] = dk[column * dim + d].error(scale, queries);
          out[2].values[at] = dv[column * dim + d].value;
          out[2].errors[at] = dv[column * dim + d].error(1.0, queries);
        }
      }
    }
  }
}

int64_t sum_length(const Arguments& a) { return a[1].columns() / a.integer("heads") + std::max(a[1].shape[0], a[2].shape[0]); }

OperatorCase with(int64_t heads, int64_t sequences, int64_t queries, int64_t keys, int64_t width) {
  const Shape q{queries, width}, k{keys, width};
  return {{q, q, k, k, q, {queries, heads}, {}, {}}, {{"heads", heads}, {"sequences", sequences}}, {}};
}

OperatorCase ragged(int64_t heads, int64_t width, const std::vector<int32_t>& queries, const std::vector<int32_t>& keys) {
  OperatorCase one = with(heads, static_cast<int64_t>(queries.size()) - 1, queries.back(), keys.back(), width);
  one.inputs[6] = one.inputs[7] = {static_cast<int64_t>(queries.size())};
  one.indices = {{6, queries}, {7, keys}};
  return one;
}

OperatorCase scaled(OperatorCase one, double scale) {
  one.attributes["scale"] = scale;
  return one;
}

}  // namespace

const OperatorRow attention_gradient = {
    .name = kName,
    .inputs = {{"dout", InputRole::plain},
               {"q", InputRole::plain},
               {"k", InputRole::plain},
               {"v", InputRole::plain},
               {"out", InputRole::plain},
               {"logsumexp", InputRole::plain},
               {"query_offsets", InputRole::index, true},
               {"key_offsets", InputRole::index, true}},
    .attributes = {{"heads", int64_t{1}}, {"sequences", int64_t{1}}, {"scale", 0.0}},
    .shapes = shapes,
    .cpu = cpu::make_attention_gradient,
    .reference = reference,
    .fit_inputs = fit_inputs,
    // As attention's: exact for one sequence or equal lengths, an upper bound for ragged ones.
    .flops =
        [](const Arguments& a) {
          return 10.0 * static_cast<double>(a[1].elements()) * static_cast<double>(a[2].shape[0]) /
                 static_cast<double>(a.integer("sequences"));
        },
    .sum_length = sum_length,
    .cases =
        {
            with(1, 1, 1, 1, 8),
            with(3, 2, 10, 14, 48),
            scaled(with(2, 1, 33, 65, 80), 0.3),
            with(3, 3, 21, 9, 15),
            with(2, 1, 257, 257, 160),
            // One key and one query more than blocks of either.
            with(1, 1, 289, 97, 24),
            with(1, 1, 70, 300, 128),
            with(1, 1, 600, 11, 128),
            ragged(2, 32, {0, 4, 5, 9}, {0, 1, 34, 40}),
            // The second sequence has no keys, the third no queries.
            ragged(1, 24, {0, 4, 6, 6}, {0, 7, 7, 11}),
        },
};

}  // namespace omni_id::operators
