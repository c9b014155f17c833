// What attention's gradient must be beyond its row in the operator table (operators_test.cpp): the derivative of the forward's
// reference, the same bits for any number of threads, and at home in columns of wider tensors.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "base/float_formats.h"
#include "cpu/device.h"
#include "cpu/isa.h"
#include "test/check.h"

using namespace omni_id;
using test::check;

namespace {

struct Sizes {
  int64_t heads, sequences, queries, keys, width;  // queries and keys in all
  double scale = 0.0;
  bool ragged = false;

  Attributes attributes() const { return {{"heads", heads}, {"sequences", sequences}, {"scale", scale}}; }
  Shape rows(size_t input) const { return {input == 2 || input == 3 ? keys : queries, width}; }
  std::string text() const { return to_string(Shape{heads, sequences, queries, keys, width}); }
};

// Offsets that leave the first sequence without keys and the last without queries.
std::vector<int32_t> offsets_of(int64_t sequences, int64_t rows, bool leaves_first) {
  std::vector<int32_t> offsets{0};
  for (int64_t s = 1; s <= sequences; ++s) {
    const int64_t pieces = sequences - 1, done = std::min(pieces, leaves_first ? s - 1 : s);
    offsets.push_back(static_cast<int32_t>(rows * done / pieces));
  }
  return offsets;
}

// In double precision: d/dx Σ dout ⊙ attention(q, k, v) against what the gradient's reference says, for every x of q, k and v.
void test_derivatives() {
  for (const Sizes& sizes : {Sizes{1, 1, 1, 1, 3}, {2, 2, 6, 4, 6}, {3, 1, 5, 7, 9, 0.7}, {1, 3, 7, 5, 4, 0.0, true}}) {
    std::mt19937 random(11);
    std::normal_distribution<double> normal;
    const auto drawn = [&](const Shape& shape) {
      ReferenceTensor tensor{shape, std::vector<double>(static_cast<size_t>(elements_of(shape))), {}};
      for (double& x : tensor.values) x = normal(random);
      tensor.errors.assign(tensor.values.size(), 0.0);
      return tensor;
    };
    std::vector<ReferenceTensor> in;  // dout, q, k, v, out, logsumexp, offsets
    for (size_t i = 0; i < 5; ++i) in.push_back(drawn(sizes.rows(i)));
    in.push_back(drawn({sizes.queries, sizes.heads}));
    for (const bool keys : {false, true}) {
      ReferenceTensor offsets{{sizes.sequences + 1}, {}, {}};
      for (const int32_t at : offsets_of(sizes.sequences + !sizes.ragged, keys ? sizes.keys : sizes.queries, keys)) {
        offsets.values.push_back(at);
      }
      in.push_back(offsets);
    }
    std::vector<TensorType> types;
    for (size_t i = 0; i < in.size(); ++i) types.push_back({i < 6 ? DType::f32 : DType::i32, in[i].shape});
    const auto offsets = [&](size_t i) { return sizes.ragged ? &types[i] : nullptr; };
    const Arguments forward =
        checked_arguments(operators::attention, {&types[1], &types[2], &types[3], offsets(6), offsets(7)}, sizes.attributes());
    const Arguments backward = checked_arguments(
        operators::attention_gradient,
        {&types[0], &types[1], &types[2], &types[3], &types[4], &types[5], offsets(6), offsets(7)}, sizes.attributes());
    const auto loss = [&] {
      std::vector<ReferenceTensor> out{in[4]};
      std::fill(out[0].values.begin(), out[0].values.end(), 0.0);
      operators::attention.reference(forward, {in[1], in[2], in[3], in[6], in[7]}, out);
      double sum = 0.0;
      for (size_t i = 0; i < out[0].values.size(); ++i) sum += out[0].values[i] * in[0].values[i];
      return sum;
    };
    operators::attention_gradient.fit_inputs(backward, in);
    std::vector<ReferenceTensor> gradients{in[1], in[2], in[3]};
    for (ReferenceTensor& gradient : gradients) std::fill(gradient.values.begin(), gradient.values.end(), 0.0);
    operators::attention_gradient.reference(backward, in, gradients);
    double worst = 0.0;
    for (size_t i = 0; i < 3; ++i) {
      for (size_t j = 0; j < in[i + 1].values.size(); ++j) {
        double& x = in[i + 1].values[j];
        const double at = x, step = 1e-4;
        x = at + step;
        const double above = loss();
        x = at - step;
        const double below = loss();
        x = at;
        const double error = std::abs((above - below) / (2 * step) - gradients[i].values[j]);
        if (!(error <= worst)) worst = error;
      }
    }
    // The third derivative's share of step², with values and gradients of about one, and the rounding of the difference.
    check(worst <= 1e-6, "the gradient is attention's derivative at " + sizes.text() + ": off by " + std::to_string(worst));
  }
}

// A tensor inside a wider one, of which every other byte must stay.
struct Columns {
  std::vector<std::byte> memory;
  TensorView view;

  Columns(const TensorType& type, int64_t before, int64_t after) {
    const int64_t stride = before + type.columns() + after, element = static_cast<int64_t>(size_of(type.dtype));
    memory.assign(static_cast<size_t>(type.rows() * stride * element), std::byte{0xff});
    view = {memory.data() + before * element, type, stride};
  }
  std::byte* row(int64_t i) const { return view.data + i * view.row_stride * static_cast<int64_t>(size_of(view.type.dtype)); }
  size_t row_bytes() const { return static_cast<size_t>(view.type.columns()) * size_of(view.type.dtype); }
  std::vector<std::byte> values() const {
    std::vector<std::byte> all;
    for (int64_t i = 0; i < view.type.rows(); ++i) all.insert(all.end(), row(i), row(i) + row_bytes());
    return all;
  }
  int64_t touched_outside() const {
    std::vector<std::byte> rest = memory;
    for (int64_t i = 0; i < view.type.rows(); ++i) {
      std::memset(rest.data() + (row(i) - memory.data()), 0xff, row_bytes());
    }
    return static_cast<int64_t>(rest.size()) - std::count(rest.begin(), rest.end(), std::byte{0xff});
  }
};

// Forward and gradient of drawn numbers: out, logsumexp, dq, dk and dv one after the other. Every tensor has `before` columns
// before it and `after` behind.
std::vector<std::byte> run(const std::string& isa, int threads, const Sizes& sizes, DType dtype, int64_t before,
                           int64_t after) {
  CpuDevice device(threads, isa);
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<Columns> in;  // dout, q, k, v
  for (size_t i = 0; i < 4; ++i) {
    Columns& tensor = in.emplace_back(TensorType{dtype, sizes.rows(i)}, before, after);
    for (int64_t row = 0; row < tensor.view.type.rows(); ++row) {
      for (int64_t column = 0; column < sizes.width; ++column) {
        const float x = normal(random);
        const uint16_t half = bf16_from_float(x);
        const size_t element = size_of(dtype);
        std::memcpy(tensor.row(row) + static_cast<size_t>(column) * element,
                    element == 2 ? static_cast<const void*>(&half) : &x, element);
      }
    }
  }
  std::vector<int32_t> offsets[2];
  TensorView offset_views[2];
  for (const bool keys : {false, true}) {
    offsets[keys] = offsets_of(sizes.sequences + !sizes.ragged, keys ? sizes.keys : sizes.queries, keys);
    const TensorType type{DType::i32, {sizes.sequences + 1}};
    if (sizes.ragged) offset_views[keys] = {reinterpret_cast<std::byte*>(offsets[keys].data()), type, sizes.sequences + 1};
  }
  const auto type = [](const TensorView& view) { return view.data ? &view.type : nullptr; };
  const auto types = [&](const std::vector<TensorView>& views) {
    std::vector<const TensorType*> all;
    for (const TensorView& view : views) all.push_back(type(view));
    return all;
  };
  std::vector<Columns> outputs;
  const auto call = [&](const OperatorRow& row, const std::vector<TensorView>& inputs, const Attributes& attributes) {
    const Arguments arguments = checked_arguments(row, types(inputs), attributes);
    KernelCall one{inputs, {}, nullptr};
    for (const TensorType& output : row.shapes(arguments)) {
      one.outputs.push_back(outputs.emplace_back(output, before, after).view);
    }
    device.bind(row, arguments)->run(one);
  };
  outputs.reserve(5);
  Attributes attributes = sizes.attributes();
  attributes["statistics"] = int64_t{1};
  call(operators::attention, {in[1].view, in[2].view, in[3].view, offset_views[0], offset_views[1]}, attributes);
  call(operators::attention_gradient,
       {in[0].view, in[1].view, in[2].view, in[3].view, outputs[0].view, outputs[1].view, offset_views[0], offset_views[1]},
       sizes.attributes());
  std::vector<std::byte> all;
  int64_t outside = 0, nan = 0;
  for (const Columns& output : outputs) {
    const std::vector<std::byte> values = output.values();
    all.insert(all.end(), values.begin(), values.end());
    outside += output.touched_outside();
    const size_t element = size_of(output.view.type.dtype);
    for (size_t i = element; i <= values.size(); i += element) {
      nan += values[i - 2] == std::byte{0xff} && values[i - 1] == std::byte{0xff};
    }
  }
  const std::string what = isa + " " + name_of(dtype) + " " + sizes.text();
  check(outside == 0, what + ": attention or its gradient writes beside its columns");
  check(nan == 0, what + ": attention or its gradient leaves elements out");
  return all;
}

void test_bits(const std::string& isa) {
  for (const Sizes& sizes : {Sizes{1, 1, 5, 3, 15}, {2, 1, 70, 190, 48}, {1, 1, 300, 110, 80}, {3, 4, 21, 32, 72, 0.0, true}}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const std::vector<std::byte> expected = run(isa, 1, sizes, dtype, 0, 0);
      const std::string what = isa + " " + name_of(dtype) + " " + sizes.text();
      for (const int threads : {2, 3, 7}) {
        check(run(isa, threads, sizes, dtype, 0, 0) == expected, what + " depends on the number of threads");
      }
      check(run(isa, 2, sizes, dtype, sizes.width, 3) == expected, what + " depends on where its columns lie");
    }
  }
}

}  // namespace

int main() {
  test_derivatives();
  for (const std::string& isa : available_isas()) {
    test_bits(isa);
    std::printf("%s\n", isa.c_str());
  }
  return test::finish();
}
