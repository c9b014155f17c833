// concat_rows_gradient: the gradient of concat_rows by x. Every row of x gets the sum of the rows that were copied from it:
//   dx[r] = Σ pieces i with starts[i] ≤ r < starts[i] + offsets[i + 1] − offsets[i] of dy[offsets[i] + r − starts[i]]
// dy [last offset, columns], starts i32[pieces], offsets i32[pieces + 1]; dx [rows, columns], summed in f32 in the pieces'
// order.
#include <cmath>

#include "cpu/operators/operators.h"
#include "graph/operators.h"
#include "graph/rounding.h"

namespace omni_id::operators {

namespace {

constexpr const char* kName = "concat_rows_gradient";

std::vector<TensorType> shapes(const Arguments& a) {
  const TensorType &dy = a[0], &starts = a[1], &offsets = a[2];
  require(dy.shape.size() == 2, kName, "dy is " + to_string(dy) + ", expected two dimensions");
  require(
      starts.shape.size() == 1 && starts.shape[0] > 0 && offsets.shape == Shape{starts.shape[0] + 1}, kName,
      "starts are " + to_string(starts) + " and offsets " + to_string(offsets) + ", expected i32[pieces] and i32[pieces + 1]");
  require(a.integer("rows") >= 0, kName, "rows must not be negative");
  return {{dy.dtype, {a.integer("rows"), dy.columns()}}};
}

void reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const int64_t columns = a[0].columns(), pieces = a[1].shape[0];
  std::vector<double> magnitudes(out[0].values.size());
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t first = static_cast<int64_t>(in[2].values[piece]), start = static_cast<int64_t>(in[1].values[piece]);
    for (int64_t row = first; row < static_cast<int64_t>(in[2].values[piece + 1]); ++row) {
      for (int64_t j = 0; j < columns; ++j) {
        out[0].values[(start + row - first) * columns + j] += in[0].values[row * columns + j];
        magnitudes[(start + row - first) * columns + j] += std::abs(in[0].values[row * columns + j]);
      }
    }
  }
  for (size_t i = 0; i < magnitudes.size(); ++i) {
    out[0].errors[i] = kRoundingF32 * roundings_of_terms(pieces) * magnitudes[i];
  }
}

// 40 pieces of two rows each, from row 1 on.
const std::map<size_t, std::vector<int32_t>> kPairs = [] {
  std::vector<int32_t> offsets;
  for (int32_t piece = 0; piece <= 40; ++piece) offsets.push_back(2 * piece);
  return std::map<size_t, std::vector<int32_t>>{{1, std::vector<int32_t>(40, 1)}, {2, offsets}};
}();

}  // namespace

const OperatorRow concat_rows_gradient = {
    .name = kName,
    .inputs = {{"dy", InputRole::plain}, {"starts", InputRole::index}, {"offsets", InputRole::index}},
    .attributes = {{"rows", int64_t{0}}},
    .shapes = shapes,
    .cpu = cpu::make_concat_rows_gradient,
    .reference = reference,
    .flops = [](const Arguments& a) { return static_cast<double>(a[0].elements()); },
    .sum_length = [](const Arguments& a) { return a[1].shape[0]; },
    .cases =
        {
            {{{12, 3}, {3}, {4}}, {{"rows", int64_t{4}}}, {{1, {0, 0, 0}}, {2, {0, 4, 8, 12}}}},
            {{{8, 17}, {4}, {5}}, {{"rows", int64_t{9}}}, {{1, {5, 0, 9, 2}}, {2, {0, 4, 6, 6, 8}}}},
            {{{80, 264}, {40}, {41}}, {{"rows", int64_t{5}}}, kPairs},
        },
};

}  // namespace omni_id::operators
