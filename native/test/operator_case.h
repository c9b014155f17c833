#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <set>

#include "base/float_formats.h"
#include "graph/rounding.h"
#include "runtime/plan.h"

// A row of the operator table on a device, with drawn inputs, beside what its reference says.
namespace omni_id::test {

// One output of a case.
struct Result {
  std::vector<double> expected, tolerance;
  std::vector<float> actual;
};

inline double rounded(double value, DType dtype) {
  const float f = static_cast<float>(value);
  return dtype == DType::bf16 ? float_from_bf16(bf16_from_float(f)) : f;
}

inline std::vector<std::byte> bytes_of(DType dtype, const std::vector<double>& values) {
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
inline Result compared(const TensorType& type, const ReferenceTensor& reference, const std::byte* written) {
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
inline bool takes_bf16(const OperatorRow& row, const InputRule& rule) {
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
      {"gate_gradient", {"dy", "value"}},
      {"column_sums", {"x"}},
  };
  const auto names = narrow.find(row.name);
  return rule.role == InputRole::matrix || (names != narrow.end() && names->second.count(rule.name) == 1);
}

// `narrow`: activations and matrices in bf16 wherever the operator takes them. `packed`: matrices are weights, which the device
// packs, and not inputs like any other. `views`: inputs of one or two dimensions are columns of wider ones, which hold NaN
// besides.
struct Mode {
  bool narrow, packed, views;
};

inline constexpr int64_t kColumnsBefore = 3, kColumnsAfter = 2;

// Runs one case as a plan of a single node; a result for each output.
inline std::vector<Result> run_case(const OperatorRow& row, const OperatorCase& one, const Mode& mode,
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

}  // namespace omni_id::test
