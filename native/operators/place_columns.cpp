// place_columns: a matrix between columns of zeros, or added to columns of another one:
//   y = sum, or zeros; y[:, column : column + n] += x
// x [rows, n], sum and y [rows, columns]; `output` is the dtype of y, that of x when empty. It is the gradient of a view of
// columns, and brings a gradient into another type or into memory of its own.
#include <cmath>

#include "cpu/operators/operators.h"
#include "graph/operators.h"
#include "graph/rounding.h"

namespace omni_id::operators {

namespace {

constexpr const char* kName = "place_columns";

std::vector<TensorType> shapes(const Arguments& a) {
  const TensorType& x = a[0];
  const int64_t column = a.integer("column"), columns = a.integer("columns");
  require(!x.shape.empty() && x.columns() > 0, kName, "x is " + to_string(x) + ", expected columns");
  require(column >= 0 && columns >= 0 && x.columns() <= columns && column <= columns - x.columns(), kName,
          to_string(x) + " at column " + std::to_string(column) + " does not fit " + std::to_string(columns) + " columns");
  TensorType y{a.text("output").empty() ? x.dtype : dtype_named(a.text("output")), x.shape};
  y.shape.back() = columns;
  elements_of(y.shape);
  require(y.dtype == DType::f32 || y.dtype == DType::bf16, kName, "output must be f32 or bf16");
  require(!a.has(1) || a[1] == y, kName, "sum does not fit " + to_string(y));
  return {y};
}

// A copy but for one addition.
void reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const int64_t n = a[0].columns(), column = a.integer("column"), columns = a.integer("columns");
  if (a.has(1)) out[0].values = in[1].values;
  for (int64_t i = 0; i < a[0].elements(); ++i) {
    const int64_t at = i / n * columns + column + i % n;
    out[0].values[at] += in[0].values[i];
    if (a.has(1)) out[0].errors[at] = kRoundingF32 * std::abs(out[0].values[at]);
  }
}

Attributes at(int64_t column, int64_t columns, const char* output = "") {
  return {{"column", column}, {"columns", columns}, {"output", std::string(output)}};
}

}  // namespace

const OperatorRow place_columns = {
    .name = kName,
    .inputs = {{"x", InputRole::plain}, {"sum", InputRole::plain, true}},
    .attributes = {{"column", int64_t{0}}, {"columns", int64_t{0}}, {"output", std::string()}},
    .shapes = shapes,
    .in_place_input = 1,
    .cpu = cpu::make_place_columns,
    .reference = reference,
    .flops = [](const Arguments& a) { return a.has(1) ? static_cast<double>(a[0].elements()) : 0.0; },
    .sum_length = [](const Arguments&) { return int64_t{2}; },
    .cases =
        {
            {{{1, 1}, {}}, at(0, 1), {}},
            {{{5, 7}, {}}, at(3, 19), {}},
            {{{70, 131}, {}}, at(140, 271, "bf16"), {}},
            {{{70, 131}, {70, 271}}, at(2, 271, "f32"), {}},
            {{{33}, {33}}, at(0, 33, "f32"), {}},
            {{{2, 3, 4, 5}, {}}, at(0, 5), {}},
            {{{0, 4}, {}}, at(1, 6), {}},
        },
};

}  // namespace omni_id::operators
