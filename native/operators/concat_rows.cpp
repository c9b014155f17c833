// concat_rows: concatenation along the token axis by offsets. Piece i of y is a run of rows of x:
//   y[offsets[i] : offsets[i + 1]] = x[starts[i] : starts[i] + offsets[i + 1] − offsets[i]]
// x [rows of x, columns], starts i32[pieces], offsets i32[pieces + 1] from 0 to `rows`, never falling; y [rows, columns].
// It lays the features of one identity's images behind each other, and repeats the queries for every identity.
#include "cpu/operators/operators.h"
#include "graph/operators.h"

namespace omni_id::operators {

namespace {

constexpr const char* kName = "concat_rows";

std::vector<TensorType> shapes(const Arguments& a) {
  const TensorType &x = a[0], &starts = a[1], &offsets = a[2];
  require(x.shape.size() == 2, kName, "x is " + to_string(x) + ", expected two dimensions");
  require(
      starts.shape.size() == 1 && starts.shape[0] > 0 && offsets.shape == Shape{starts.shape[0] + 1}, kName,
      "starts are " + to_string(starts) + " and offsets " + to_string(offsets) + ", expected i32[pieces] and i32[pieces + 1]");
  require(a.integer("rows") >= 0, kName, "rows must not be negative");
  return {{x.dtype, {a.integer("rows"), x.columns()}}};
}

// Copies: no error at all.
void reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const int64_t columns = a[0].columns();
  for (int64_t piece = 0; piece < a[1].shape[0]; ++piece) {
    const int64_t first = static_cast<int64_t>(in[2].values[piece]), start = static_cast<int64_t>(in[1].values[piece]);
    for (int64_t row = first; row < static_cast<int64_t>(in[2].values[piece + 1]); ++row) {
      for (int64_t j = 0; j < columns; ++j) {
        out[0].values[row * columns + j] = in[0].values[(start + row - first) * columns + j];
      }
    }
  }
}

}  // namespace

const OperatorRow concat_rows = {
    .name = kName,
    .inputs = {{"x", InputRole::plain}, {"starts", InputRole::index}, {"offsets", InputRole::index}},
    .attributes = {{"rows", int64_t{0}}},
    .shapes = shapes,
    .cpu = cpu::make_concat_rows,
    .reference = reference,
    .flops = [](const Arguments&) { return 0.0; },
    .sum_length = [](const Arguments&) { return int64_t{1}; },
    .cases =
        {
            {{{4, 3}, {3}, {4}}, {{"rows", int64_t{12}}}, {{1, {0, 0, 0}}, {2, {0, 4, 8, 12}}}},
            {{{9, 17}, {4}, {5}}, {{"rows", int64_t{8}}}, {{1, {5, 0, 9, 2}}, {2, {0, 4, 6, 6, 8}}}},
            {{{9, 528}, {4}, {5}}, {{"rows", int64_t{8}}}, {{1, {5, 0, 9, 2}}, {2, {0, 4, 6, 6, 8}}}},
        },
};

}  // namespace omni_id::operators
