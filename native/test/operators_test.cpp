// Every row of the operator table, on every instruction set of this machine (and, compiled with OMNI_ID_TEST_CUDA, on a CUDA
// device, emulated or real), in f32 and bf16, against the row's reference in double precision; and the same with matrices and
// vectors that are columns of wider ones. A row without cases fails. Every
// element may be off by what its reference says (graph/rounding.h) and by the rounding of the output; bf16 inputs are rounded
// before both computations.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <tuple>

#include "base/error.h"
#include "base/float_formats.h"
#ifdef OMNI_ID_TEST_CUDA
#include "cuda/device.h"
#include "cuda/operators/operators.h"
#else
#include "cpu/device.h"
#include "cpu/isa.h"
#endif
#include "graph/rounding.h"
#include "runtime/plan.h"
#include "test/check.h"

using namespace omni_id;
using test::check;

namespace {

// The row that the command line names; all without.
std::string only;

// One output of a case.
struct Result {
  std::vector<double> expected, tolerance;
  std::vector<float> actual;
};

double rounded(double value, DType dtype) {
  const float f = static_cast<float>(value);
  return dtype == DType::bf16 ? float_from_bf16(bf16_from_float(f)) : f;
}

std::vector<std::byte> bytes_of(DType dtype, const std::vector<double>& values) {
  std::vector<std::byte> bytes(values.size() * size_of(dtype));
  std::byte* to = bytes.data();
  for (const double value : values) {
    const float f = static_cast<float>(value);
    const int32_t integer = dtype == DType::i32 ? static_cast<int32_t>(value) : 0;
    const uint16_t half = bf16_from_float(f);
    const void* from = dtype == DType::i32    ? static_cast<const void*>(&integer)
                       : dtype == DType::bf16 ? static_cast<const void*>(&half)
                                              : static_cast<const void*>(&f);
    std::memcpy(to, from, size_of(dtype));
    to += size_of(dtype);
  }
  return bytes;
}

// What a run wrote, beside what it should have written and how far it may be off.
Result compared(const TensorType& type, const ReferenceTensor& reference, const std::byte* written) {
  Result result{reference.values, reference.errors, {}};
  for (size_t j = 0; j < result.expected.size(); ++j) {
    double& tolerance = result.tolerance[j];
    const double expected = result.expected[j];
    // A bf16 value that is only copied is not rounded.
    if (type.dtype == DType::bf16 && (tolerance > 0.0 || rounded(expected, DType::bf16) != expected)) {
      tolerance += rounding_to_bf16(std::abs(expected) + tolerance);
    }
    if (type.dtype == DType::bf16) {
      uint16_t bits;
      std::memcpy(&bits, written + 2 * j, 2);
      result.actual.push_back(float_from_bf16(bits));
    } else {
      result.actual.push_back(reinterpret_cast<const float*>(written)[j]);
    }
  }
  return result;
}

// bf16 for what the models keep in bf16: activations, what leads back to them, and matrices.
bool takes_bf16(const OperatorRow& row, const InputRule& rule) {
  static const std::map<std::string, std::set<std::string>> narrow = {
      {"linear", {"x"}},
      {"attention", {"q", "k", "v"}},
      {"attention_gradient", {"dout", "q", "k", "v", "out"}},
      {"concat_rows", {"x"}},
      {"linear_input_gradient", {"d", "derivative_at"}},
      {"linear_weight_gradient", {"d", "x"}},
      {"layer_norm_gradient", {"dy"}},
      {"concat_rows_gradient", {"dy"}},
      {"place_columns", {"x"}},
      {"patch_gather_gradient", {"rows"}},
      {"patch_scatter", {"rows"}},
      {"add", {"a", "b"}},
      {"activation_gradient", {"dy", "x"}},
      {"column_sums", {"x"}},
  };
  const auto names = narrow.find(row.name);
  return rule.role == InputRole::matrix || (names != narrow.end() && names->second.count(rule.name) == 1);
}

// Runs one case as a plan of a single node; a result for each output. `narrow`: activations and matrices in bf16 wherever the
// operator takes them. `packed`: matrices are weights, which the device packs, and not inputs like any other. `views`: inputs
// of one or two dimensions are columns of wider ones, which hold NaN besides.
struct Mode {
  bool narrow, packed, views;
};

constexpr int64_t kColumnsBefore = 3, kColumnsAfter = 2;

std::vector<Result> run_case(const OperatorRow& row, const OperatorCase& one, const Mode& mode,
                             const std::shared_ptr<Device>& device) {
  const auto& [narrow, packed, views] = mode;
  std::mt19937 random(static_cast<uint32_t>(one.inputs[0].empty() ? 1 : one.inputs[0].back() * 7919 + one.inputs.size()));
  std::normal_distribution<double> normal;
  Graph graph;
  Node node{&row, {}, {}, one.attributes};
  std::vector<ReferenceTensor> references;  // of inputs
  for (size_t i = 0; i < row.inputs.size(); ++i) {
    const InputRule& rule = row.inputs[i];
    const bool absent = i >= one.inputs.size() || one.inputs[i].empty();
    references.push_back({absent ? Shape{0} : one.inputs[i], {}, {}});
    if (absent) {
      node.inputs.push_back(-1);
      continue;
    }
    Value value;
    value.type = {rule.role == InputRole::index     ? DType::i32
                  : narrow && takes_bf16(row, rule) ? DType::bf16
                                                    : DType::f32,
                  one.inputs[i]};
    // A packed weight is multiplied in its own type.
    const auto compute = one.attributes.find("compute");
    if (packed && rule.role == InputRole::matrix && compute != one.attributes.end()) {
      value.type.dtype = dtype_named(std::get<std::string>(compute->second));
    }
    for (int64_t j = 0; j < value.type.elements(); ++j) {
      references[i].values.push_back(rule.role == InputRole::index ? one.indices.at(i)[static_cast<size_t>(j)]
                                                                   : rounded(normal(random), value.type.dtype));
    }
    const bool is_weight = packed && rule.role == InputRole::matrix;
    if (views && rule.role != InputRole::index && !is_weight && one.inputs[i].size() <= 2) {
      Value wide = value;
      wide.type.shape.back() += kColumnsBefore + kColumnsAfter;
      value.kind = Value::Kind::view;
      value.source = static_cast<int>(graph.values.size());
      value.column = kColumnsBefore;
      graph.values.push_back(wide);
    }
    node.inputs.push_back(static_cast<int>(graph.values.size()));
    graph.values.push_back(value);
  }
  const std::vector<Value> inputs = graph.values;
  std::vector<const TensorType*> types;
  for (int input : node.inputs) types.push_back(input < 0 ? nullptr : &inputs[static_cast<size_t>(input)].type);
  const Arguments arguments = checked_arguments(row, types, one.attributes);
  const std::vector<TensorType> output_types = row.shapes(arguments);
  if (row.fit_inputs) row.fit_inputs(arguments, references);

  auto weights = std::make_shared<WeightStore>();
  std::map<std::string, Binding> bindings;
  for (size_t i = 0; i < row.inputs.size(); ++i) {
    if (node.inputs[i] < 0) continue;
    const std::string name = row.inputs[i].name;
    Value& value = graph.values[static_cast<size_t>(node.inputs[i])];
    const DType dtype = value.type.dtype;
    for (double& x : references[i].values) x = rounded(x, dtype);
    if (packed && row.inputs[i].role == InputRole::matrix) {
      const std::vector<float> given(references[i].values.begin(), references[i].values.end());
      weights->set(name, one.inputs[i], given.data());
      value.kind = Value::Kind::weight;
      value.parts = {name};
    } else if (value.kind == Value::Kind::view) {
      Value& wide = graph.values[static_cast<size_t>(value.source)];
      wide.name = name;
      bindings[name] = {device->allocate(std::max<size_t>(1, wide.type.bytes())), 0};
      std::vector<std::byte> bytes(wide.type.bytes(), std::byte{0xff});
      const int64_t columns = value.type.columns();
      for (int64_t r = 0; r < value.type.rows(); ++r) {
        const auto first = references[i].values.begin() + r * columns;
        const std::vector<std::byte> row_bytes = bytes_of(dtype, {first, first + columns});
        const int64_t element = r * wide.type.columns() + kColumnsBefore;
        std::copy(row_bytes.begin(), row_bytes.end(), bytes.begin() + element * static_cast<int64_t>(size_of(dtype)));
      }
      device->write(*bindings[name].buffer, 0, bytes.data(), bytes.size());
    } else {
      value.name = name;
      bindings[name] = {device->allocate(std::max<size_t>(1, value.type.bytes())), 0};
      const std::vector<std::byte> bytes = bytes_of(dtype, references[i].values);
      device->write(*bindings[name].buffer, 0, bytes.data(), bytes.size());
    }
    // The pixels of a patch embedding come in f32, and are rounded to the type of the weights that they are multiplied by.
    const bool to_bf16 =
        row.name == std::string("patch_embedding") && inputs[static_cast<size_t>(node.inputs[1])].type.dtype == DType::bf16;
    if (to_bf16 && name == "pixels") {
      for (double& x : references[i].values) x = rounded(x, DType::bf16);
    }
  }
  std::vector<ReferenceTensor> outputs;
  for (size_t i = 0; i < output_types.size(); ++i) {
    const TensorType& type = output_types[i];
    const std::vector<double> zeros(static_cast<size_t>(type.elements()), 0.0);
    outputs.push_back({type.shape, zeros, zeros});
    const std::string name = "out" + std::to_string(i);
    node.outputs.push_back(static_cast<int>(graph.values.size()));
    graph.outputs.push_back({name, node.outputs.back()});
    Value& value = graph.values.emplace_back();
    value.kind = Value::Kind::result;
    value.type = type;
    bindings[name] = {device->allocate(std::max<size_t>(1, type.bytes())), 0};
    const std::vector<std::byte> nan(type.bytes(), std::byte{0xff});  // an element that is not written shows
    device->write(*bindings[name].buffer, 0, nan.data(), nan.size());
  }
  row.reference(arguments, references, outputs);

  graph.nodes = {node};
  const std::atomic<bool> cancelled{false};
  const auto plan = Plan::compile(graph, device, weights, cancelled);
  plan->check_bindings(bindings);
  plan->run(bindings, cancelled);
  std::vector<Result> results;
  for (size_t i = 0; i < output_types.size(); ++i) {
    std::vector<std::byte> written(output_types[i].bytes());
    device->read(*bindings["out" + std::to_string(i)].buffer, 0, written.data(), written.size());
    results.push_back(compared(output_types[i], outputs[i], written.data()));
  }
  return results;
}

void test_against_reference(const std::shared_ptr<Device>& device) {
  const std::string isa = device->instruction_set();
  for (const OperatorRow* row : operator_table()) {
    if (!only.empty() && only != row->name) continue;
    check(!row->cases.empty(), std::string(row->name) + " has cases");
    size_t ran = 0;
    const bool has_matrices = std::any_of(row->inputs.begin(), row->inputs.end(),
                                          [](const InputRule& rule) { return rule.role == InputRole::matrix; });
    for (const Mode& mode : {Mode{false, true, false},
                             {true, true, false},
                             {false, false, false},
                             {true, false, false},
                             {false, false, true},
                             {true, false, true}}) {
      const auto& [narrow, packed, views] = mode;
      if (!packed && !views && !has_matrices) continue;
      double worst = 0.0;  // error / tolerance
      for (const OperatorCase& one : row->cases) {
        std::vector<Result> results;
        try {
          results = run_case(*row, one, mode, device);
        } catch (const EngineError& error) {
          check(false, std::string(row->name) + " on " + isa + (narrow ? " bf16" : " f32") + " with " +
                           to_string(one.inputs[0]) + ": " + error.code() + ", " + error.what());
          continue;
        }
        for (size_t output = 0; output < results.size(); ++output) {
          const Result& result = results[output];
          double of_case = 0.0, off = 0.0, allowed = 0.0;
          for (size_t j = 0; j < result.expected.size(); ++j) {
            const double error = std::abs(result.expected[j] - result.actual[j]), tolerance = result.tolerance[j];
            // A value that must be exact and is: 0 of 0. NaN is the worst: it would be forgotten at the next element.
            const double ratio = error == 0.0        ? 0.0
                                 : std::isnan(error) ? std::numeric_limits<double>::infinity()
                                                     : error / tolerance;
            if (!(ratio <= of_case)) of_case = ratio, off = error, allowed = tolerance;
          }
          if (!(of_case <= worst)) worst = of_case;
          check(of_case <= 1.0, std::string(row->name) + " on " + isa + (narrow ? " bf16" : " f32") + (views ? " views" : "") +
                                    " with " + to_string(one.inputs[0]) + ", output " + std::to_string(output) + ": error " +
                                    std::to_string(off) + ", at most " + std::to_string(allowed));
        }
        ++ran;
      }
      std::printf("%-12s %-24s %-5s %-9s worst error %.2f of the tolerance\n", isa.c_str(), row->name, narrow ? "bf16" : "f32",
                  views           ? "views"
                  : !has_matrices ? ""
                  : packed        ? "packed"
                                  : "unpacked",
                  worst);
    }
    check(ran > 0, std::string(row->name) + " ran");
  }
}

// Small whole numbers are exact in f32 and bf16 and so are their sums below 2^24: a product of them must be right to the bit.
void test_exact_products(const std::shared_ptr<Device>& device) {
  const std::string isa = device->instruction_set();
  std::mt19937 random(7);
  std::uniform_int_distribution<int> small(-3, 3);
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 1, 1}, {5, 33, 2}, {12, 32, 256}, {13, 31, 257}, {241, 130, 515}}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      std::vector<float> x(static_cast<size_t>(m * k)), w(static_cast<size_t>(n * k));
      for (float& v : x) v = static_cast<float>(small(random));
      for (float& v : w) v = static_cast<float>(small(random));
      auto weights = std::make_shared<WeightStore>();
      weights->set("w", {n, k}, w.data());
      Graph graph;
      const auto add = [&](Value::Kind kind, DType type, const Shape& shape) -> Value& {
        Value& value = graph.values.emplace_back();
        value.kind = kind;
        value.type = {type, shape};
        return value;
      };
      add(Value::Kind::input, DType::f32, {m, k}).name = "x";
      add(Value::Kind::weight, dtype, {n, k}).parts = {"w"};
      add(Value::Kind::result, DType::f32, {m, n});
      graph.nodes = {{&operators::linear, {0, 1}, {2}, {}}};
      graph.outputs = {{"y", 2}};
      const std::atomic<bool> cancelled{false};
      const auto plan = Plan::compile(graph, device, weights, cancelled);
      std::map<std::string, Binding> bindings{{"x", {device->allocate(x.size() * 4), 0}},
                                              {"y", {device->allocate(static_cast<size_t>(m * n) * 4), 0}}};
      device->write(*bindings["x"].buffer, 0, x.data(), x.size() * 4);
      plan->run(bindings, cancelled);
      std::vector<float> y(static_cast<size_t>(m * n));
      device->read(*bindings["y"].buffer, 0, y.data(), y.size() * 4);
      int64_t wrong = 0;
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          float sum = 0.0f;
          for (int64_t l = 0; l < k; ++l) sum += x[static_cast<size_t>(i * k + l)] * w[static_cast<size_t>(j * k + l)];
          wrong += y[static_cast<size_t>(i * n + j)] != sum;
        }
      }
      check(wrong == 0, std::string("exact product on ") + isa + " " + name_of(dtype) + " " + to_string(Shape{m, n, k}) + ": " +
                            std::to_string(wrong) + " wrong");
    }
  }
}

// Index inputs are checked before every run.
void test_rejections(const std::shared_ptr<Device>& device) {
  const auto code = [&](OperatorRow row, const OperatorCase& bad) {
    // The reference would read out of bounds too, so only the plan's own check can be what answers.
    row.reference = [](const Arguments&, const std::vector<ReferenceTensor>&, std::vector<ReferenceTensor>&) {};
    return test::code_of<EngineError>([&] { run_case(row, bad, {false, true, false}, device); });
  };
  const OperatorCase& ragged = operators::attention.cases[6];
  check(code(operators::attention, ragged).empty(), "attention takes the offsets that the others are made of");
  for (const size_t input : {3, 4}) {
    const int32_t end = ragged.indices.at(input)[3];
    for (const std::vector<int32_t>& offsets : {std::vector<int32_t>{0, 4, 3, end},
                                                {1, 4, 5, end},
                                                {-1, 4, 5, end},
                                                {0, 4, 5, end + 1},
                                                {0, 4, 5, end - 1},
                                                {0, 400, 5, end},
                                                {0, INT32_MIN, 5, end}}) {
      OperatorCase bad = ragged;
      bad.indices[input] = offsets;
      check(code(operators::attention, bad) == kInvalidArgument,
            "attention rejects offsets that do not rise from 0 to the end: " + std::to_string(offsets[1]));
    }
  }
  const OperatorCase& pieces = operators::concat_rows.cases[1];
  const std::vector<int32_t>&starts = pieces.indices.at(1), &ends = pieces.indices.at(2);
  check(code(operators::concat_rows, pieces).empty(), "concat_rows takes the pieces that the others are made of");
  for (size_t piece = 0; piece < starts.size(); ++piece) {
    // One row too early or late for x, and where adding the piece's length would overflow.
    const int32_t last = static_cast<int32_t>(pieces.inputs[0][0]) - (ends[piece + 1] - ends[piece]);
    for (const int32_t start : {-1, INT32_MIN, last + 1, INT32_MAX}) {
      OperatorCase bad = pieces;
      bad.indices[1][piece] = start;
      check(code(operators::concat_rows, bad) == kInvalidArgument,
            "concat_rows rejects piece " + std::to_string(piece) + " from row " + std::to_string(start));
    }
    OperatorCase good = pieces;
    good.indices[1][piece] = last;
    check(code(operators::concat_rows, good).empty(), "concat_rows takes the last rows of x");
  }
  for (const std::vector<int32_t>& offsets :
       {std::vector<int32_t>{0, 4, 3, 6, 8}, {1, 4, 6, 6, 8}, {0, 4, 6, 6, 9}, {0, -4, 6, 6, 8}}) {
    OperatorCase bad = pieces;
    bad.indices[2] = offsets;
    check(code(operators::concat_rows, bad) == kInvalidArgument,
          "concat_rows rejects offsets that do not rise from 0 to the end");
  }
}

void test_patch_rejections(const std::shared_ptr<Device>& device) {
  for (const auto& [given, patches, once] : {std::tuple<const OperatorRow*, int32_t, bool>{&operators::patch_gather, 6, false},
                                             {&operators::patch_gather_gradient, 6, false},
                                             {&operators::patch_scatter, 9, true},
                                             {&operators::patch_scatter_gradient, 9, true}}) {
    if (!only.empty() && only != given->name) continue;
    OperatorRow row = *given;
    row.reference = [](const Arguments&, const std::vector<ReferenceTensor>&, std::vector<ReferenceTensor>&) {};
    const auto fits = [](const OperatorCase& one) { return one.indices.count(1) && one.indices.at(1).size() == 4; };
    const OperatorCase good = *std::find_if(row.cases.begin(), row.cases.end(), fits);
    const auto code = [&](size_t k, int32_t patch) {
      OperatorCase one = good;
      one.indices[1][k] = patch;
      return test::code_of<EngineError>([&] { run_case(row, one, {false, true, false}, device); });
    };
    for (size_t k = 0; k < 4; ++k) {
      for (const int32_t patch : {-1, INT32_MIN, patches, INT32_MAX}) {
        check(code(k, patch) == kInvalidArgument, std::string(row.name) + " rejects patch " + std::to_string(patch));
      }
    }
    const std::string twice = code(0, good.indices.at(1)[1]);  // two of the first image's
    check(once ? twice == kInvalidArgument : twice.empty(), std::string(row.name) + " and a patch that is visible twice");
    check(code(0, good.indices.at(1)[0]).empty(), std::string(row.name) + " takes what is right after what was not");
  }
}

}  // namespace

// With an argument, only the row of that name.
int main(int count, char** arguments) {
  if (count > 1) only = arguments[1];
#ifdef OMNI_ID_TEST_CUDA
  const std::vector<std::shared_ptr<Device>> devices = {open_cuda_device(0)};
  for (const OperatorRow* row : operator_table()) {
    if (only.empty() || only == row->name)
      check(cuda::kernel_for(*row) != nullptr, std::string(row->name) + " has a CUDA twin");
  }
#else
  std::vector<std::shared_ptr<Device>> devices;
  for (const std::string& isa : available_isas()) devices.push_back(std::make_shared<CpuDevice>(2, isa));
#endif
  for (const auto& device : devices) {
    test_against_reference(device);
    if (only.empty() || only == "linear") test_exact_products(device);
    test_patch_rejections(device);
  }
  if (only.empty()) test_rejections(devices.back());
  return test::finish();
}
