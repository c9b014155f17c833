#include "graph/graph.h"

#include <set>

namespace omni_id {

namespace {

constexpr const char* kName = "graph";

}  // namespace

void check(const Graph& graph) {
  const int count = static_cast<int>(graph.values.size());
  std::set<std::string> names;  // of inputs and outputs
  std::vector<bool> defined(graph.values.size(), false);
  std::vector<int> join_of(graph.values.size(), -1), missing(graph.values.size(), 0);
  const auto define_views_of = [&](auto&& self, int source) -> void {
    for (int i = 0; i < count; ++i) {
      if (graph.values[i].kind == Value::Kind::view && graph.values[i].source == source) {
        defined[i] = true;
        self(self, i);
      }
    }
  };
  for (int i = 0; i < count; ++i) {
    const Value& value = graph.values[i];
    elements_of(value.type.shape);
    if (value.kind == Value::Kind::view) {
      // A source stands before its view, so views cannot form a circle.
      require(value.source >= 0 && value.source < i, kName, "a view's source does not stand before it");
      const TensorType& source = graph.values[value.source].type;
      Shape expected = source.shape;
      // Kernels take a tensor of more dimensions for one piece of memory.
      require((expected.size() == 1 || expected.size() == 2) && graph.values[value.source].kind != Value::Kind::weight, kName,
              "a view needs columns of a matrix or a vector");
      expected.back() = value.type.columns();
      require(value.column >= 0 && value.type.columns() <= source.columns() - value.column &&
                  value.type == TensorType{source.dtype, expected},
              kName, "columns " + std::to_string(value.column) + " + " + to_string(value.type) + " of " + to_string(source));
    }
    require(value.kind != Value::Kind::weight || !value.parts.empty(), kName, "a weight without a name");
    if (value.kind == Value::Kind::join) {
      int64_t columns = 0;
      for (int part : value.joined) {
        require(part >= 0 && part < i && graph.values[part].kind == Value::Kind::result, kName,
                "a join's parts are results that stand before it");
        require(join_of[part] < 0, kName, "a result is part of two joins");
        const TensorType& type = graph.values[part].type;
        require(type.shape.size() == 2 && type.dtype == value.type.dtype && type.rows() == value.type.rows(), kName,
                "part " + to_string(type) + " of " + to_string(value.type));
        join_of[part] = i;
        columns += type.columns();
      }
      require(!value.joined.empty() && value.type.shape.size() == 2 && columns == value.type.columns(), kName,
              "the parts of a join do not fill " + to_string(value.type));
      missing[i] = static_cast<int>(value.joined.size());
    }
    defined[i] = defined[i] || value.kind == Value::Kind::input || value.kind == Value::Kind::weight;
    if (value.kind == Value::Kind::input) {
      require(names.insert(value.name).second, kName, "two inputs are named " + value.name);
      define_views_of(define_views_of, i);
    }
  }
  for (const Node& node : graph.nodes) {
    std::vector<const TensorType*> types;
    for (int input : node.inputs) {
      require(input >= -1 && input < count && (input < 0 || defined[input]), kName,
              std::string(node.row->name) + " reads a value that is not there yet");
      types.push_back(input < 0 ? nullptr : &graph.values[input].type);
    }
    const Arguments arguments = checked_arguments(*node.row, types, node.attributes);
    const std::vector<TensorType> outputs = node.row->shapes(arguments);
    require(outputs.size() == node.outputs.size(), kName, std::string(node.row->name) + " has another number of outputs");
    for (size_t i = 0; i < outputs.size(); ++i) {
      const int output = node.outputs[i];
      require(output >= 0 && output < count && !defined[output] && graph.values[output].kind == Value::Kind::result &&
                  graph.values[output].type == outputs[i],
              kName, std::string(node.row->name) + " writes a value of another kind or type, or one written before");
      defined[output] = true;
      define_views_of(define_views_of, output);
      if (const int join = join_of[output]; join >= 0 && --missing[join] == 0) {
        defined[join] = true;
        define_views_of(define_views_of, join);
      }
    }
  }
  require(!graph.outputs.empty(), kName, "no outputs");
  for (const GraphOutput& output : graph.outputs) {
    require(output.value >= 0 && output.value < count && defined[output.value] &&
                graph.values[output.value].kind == Value::Kind::result && join_of[output.value] < 0,
            kName, "output " + output.name + " is not the result of an operator, or part of a join");
    require(names.insert(output.name).second, kName, "output " + output.name + " has the name of another output or an input");
  }
}

}  // namespace omni_id
