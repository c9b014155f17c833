#include "graph/reference.h"

#include <random>

#include "base/float_formats.h"

namespace omni_id {

namespace {

void round_values(ReferenceTensor& tensor) {
  if (tensor.values.size() < 2) return;
  for (double& value : tensor.values) value = float_from_bf16(bf16_from_float(static_cast<float>(value)));
}

}  // namespace

ReferenceValues evaluate_reference(const Graph& graph, const ReferenceValues& inputs, bool bf16) {
  check(graph);
  const size_t count = graph.values.size();
  std::vector<ReferenceTensor> values(count);
  for (size_t i = 0; i < count; ++i) {
    const Value& value = graph.values[i];
    values[i].shape = value.type.shape;
    require(value.kind != Value::Kind::weight, "reference", "weights are not known: use inputs");
    if (value.kind != Value::Kind::input) continue;
    const auto given = inputs.find(value.name);
    require(given != inputs.end() && static_cast<int64_t>(given->second.size()) == value.type.elements(), "reference",
            "input " + value.name + " is missing or has another size than " + to_string(value.type));
    values[i].values = given->second;
    if (bf16 && value.type.dtype != DType::i32) round_values(values[i]);
  }
  // Views and joins are copies here, made when they are read.
  const auto read = [&](auto&& self, int index) -> const ReferenceTensor& {
    const Value& value = graph.values[static_cast<size_t>(index)];
    ReferenceTensor& to = values[static_cast<size_t>(index)];
    const int64_t columns = value.type.columns(), rows = value.type.rows();
    if (value.kind == Value::Kind::view) {
      const ReferenceTensor& from = self(self, value.source);
      const int64_t stride = graph.values[static_cast<size_t>(value.source)].type.columns();
      to.values.resize(static_cast<size_t>(rows * columns));
      for (int64_t i = 0; i < rows * columns; ++i) {
        to.values[static_cast<size_t>(i)] = from.values[static_cast<size_t>(i / columns * stride + value.column + i % columns)];
      }
    }
    if (value.kind == Value::Kind::join) {
      to.values.resize(static_cast<size_t>(rows * columns));
      int64_t column = 0;
      for (const int part : value.joined) {
        const ReferenceTensor& from = self(self, part);
        const int64_t width = from.shape.back();
        for (int64_t i = 0; i < rows * width; ++i) {
          to.values[static_cast<size_t>(i / width * columns + column + i % width)] = from.values[static_cast<size_t>(i)];
        }
        column += width;
      }
    }
    return to;
  };
  for (const Node& node : graph.nodes) {
    std::vector<const TensorType*> types;
    std::vector<ReferenceTensor> given;
    for (const int input : node.inputs) {
      types.push_back(input < 0 ? nullptr : &graph.values[static_cast<size_t>(input)].type);
      given.push_back(input < 0 ? ReferenceTensor{{0}, {}, {}} : read(read, input));
    }
    given.resize(node.row->inputs.size(), ReferenceTensor{{0}, {}, {}});
    std::vector<ReferenceTensor> results;
    for (const int output : node.outputs) {
      const TensorType& type = graph.values[static_cast<size_t>(output)].type;
      const std::vector<double> zeros(static_cast<size_t>(type.elements()), 0.0);
      results.push_back({type.shape, zeros, zeros});
    }
    node.row->reference(checked_arguments(*node.row, types, node.attributes), given, results);
    for (size_t i = 0; i < results.size(); ++i) {
      if (bf16) round_values(results[i]);
      values[static_cast<size_t>(node.outputs[i])] = std::move(results[i]);
    }
  }
  ReferenceValues outputs;
  for (const GraphOutput& output : graph.outputs) outputs[output.name] = read(read, output.value).values;
  return outputs;
}

std::vector<ReferenceTensor> draw_inputs(const OperatorRow& row, const OperatorCase& one, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<TensorType> types;
  std::vector<ReferenceTensor> drawn;
  for (size_t i = 0; i < row.inputs.size(); ++i) {
    const bool absent = i >= one.inputs.size() || one.inputs[i].empty(), index = row.inputs[i].role == InputRole::index;
    types.push_back({index ? DType::i32 : DType::f32, absent ? Shape{0} : one.inputs[i]});
    ReferenceTensor& tensor = drawn.emplace_back();
    tensor.shape = types.back().shape;
    for (int64_t j = 0; j < types.back().elements(); ++j) {
      tensor.values.push_back(index ? one.indices.at(i)[static_cast<size_t>(j)] : normal(random));
    }
  }
  std::vector<const TensorType*> given;
  for (size_t i = 0; i < types.size(); ++i) {
    given.push_back(i >= one.inputs.size() || one.inputs[i].empty() ? nullptr : &types[i]);
  }
  if (row.fit_inputs) row.fit_inputs(checked_arguments(row, given, one.attributes), drawn);
  return drawn;
}

}  // namespace omni_id
