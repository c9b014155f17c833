// Every rule of check(graph): a graph that breaks one is refused with ERR_INVALID_ARGUMENT and a message that says which,
// before any kernel sees it. And of the shape rules: no operator takes a sum of nothing, or what does not fit its other inputs.
#include "graph/graph.h"

#include "base/error.h"
#include "test/check.h"

using namespace omni_id;
using test::check;

namespace {

constexpr int64_t kHuge = int64_t{1} << 53;

Value input(const std::string& name, const TensorType& type) {
  Value value;
  value.type = type;
  value.name = name;
  return value;
}

Value weight(const std::string& name, const TensorType& type) {
  Value value;
  value.kind = Value::Kind::weight;
  value.type = type;
  value.parts = {name};
  return value;
}

Value result(const TensorType& type) {
  Value value;
  value.kind = Value::Kind::result;
  value.type = type;
  return value;
}

Value view(int source, int64_t column, const TensorType& type) {
  Value value;
  value.kind = Value::Kind::view;
  value.type = type;
  value.source = source;
  value.column = column;
  return value;
}

// Two linear layers; the second reads columns of the first one's result.
Graph good() {
  Graph graph;
  graph.values = {
      input("x", {DType::f32, {2, 4}}),         // 0
      weight("w", {DType::f32, {8, 4}}),        // 1
      result({DType::f32, {2, 8}}),             // 2
      view(2, 4, {DType::f32, {2, 4}}),         // 3
      input("residual", {DType::f32, {2, 8}}),  // 4
      result({DType::f32, {2, 8}}),             // 5
  };
  graph.nodes = {{&operators::linear, {0, 1}, {2}, {}}, {&operators::linear, {3, 1, -1, 4}, {5}, {}}};
  graph.outputs = {{"first", 2}, {"y", 5}};
  return graph;
}

void refuse(const std::string& word, const std::function<void(Graph&)>& spoil) {
  Graph graph = good();
  spoil(graph);
  std::string code, message;
  try {
    check(graph);
  } catch (const EngineError& error) {
    code = error.code();
    message = error.what();
  }
  check(code == kInvalidArgument && message.find(word) != std::string::npos,
        "a graph is refused for \"" + word + "\", got \"" + message + "\"");
}

void test_rules() {
  check(test::code_of<EngineError>([] { check(good()); }).empty(), "the graph that the rules are tried on is good");

  // Values.
  refuse("too large", [](Graph& g) { g.values[0].type.shape = {kHuge, 2}; });
  refuse("too large", [](Graph& g) { g.values[0].type.shape = {0, kHuge, 2}; });
  refuse("negative", [](Graph& g) { g.values[0].type.shape = {-1, 4}; });
  refuse("a weight without a name", [](Graph& g) { g.values[1].parts.clear(); });
  for (const int source : {-1, 3, 4, 6}) {
    refuse("source does not stand before", [=](Graph& g) { g.values[3].source = source; });
  }
  refuse("a view needs columns", [](Graph& g) { g.values[3].source = 1; });
  refuse("a view needs columns of a matrix", [](Graph& g) {
    g.values[2].type.shape = {1, 2, 8};
    g.values[3].type.shape = {1, 2, 4};
  });
  refuse("a view needs columns", [](Graph& g) {
    g.values[0].type.shape = {};
    g.values[3].source = 0;
  });
  for (const int64_t column : {int64_t{-1}, int64_t{5}, kHuge, INT64_MAX}) {
    refuse("columns", [=](Graph& g) { g.values[3].column = column; });
  }
  refuse("columns", [](Graph& g) { g.values[3].type.shape = {3, 4}; });
  refuse("columns", [](Graph& g) { g.values[3].type.dtype = DType::bf16; });

  // Names.
  refuse("two inputs are named x", [](Graph& g) { g.values[4].name = std::string("x"); });
  refuse("output y has the name of another", [](Graph& g) { g.outputs[0].name = std::string("y"); });
  refuse("output x has the name of another", [](Graph& g) { g.outputs[1].name = std::string("x"); });

  // Nodes.
  for (const int index : {-2, 6}) {
    refuse("not there yet", [=](Graph& g) { g.nodes[0].inputs[0] = index; });
  }
  refuse("not there yet", [](Graph& g) { g.nodes[0].inputs[0] = 5; });
  refuse("not there yet", [](Graph& g) { g.nodes[0].inputs[0] = 3; });  // a view of what comes later
  refuse("weight is missing", [](Graph& g) { g.nodes[0].inputs[1] = -1; });
  refuse("6 inputs given", [](Graph& g) { g.nodes[1].inputs.insert(g.nodes[1].inputs.end(), 2, -1); });
  refuse("does not fit", [](Graph& g) { g.nodes[0].inputs[1] = 4; });
  refuse("unknown attribute", [](Graph& g) { g.nodes[0].attributes["colour"] = int64_t{1}; });
  refuse("wrong type", [](Graph& g) { g.nodes[0].attributes["activation"] = int64_t{1}; });
  refuse("expected none, gelu", [](Graph& g) { g.nodes[0].attributes["activation"] = std::string("relu"); });
  refuse("expected f32 or bf16", [](Graph& g) { g.values[0].type.dtype = DType::i32; });
  refuse("expected f32 or bf16", [](Graph& g) { g.values[0].type.dtype = DType::f16; });
  refuse("another number of outputs", [](Graph& g) { g.nodes[0].outputs.clear(); });
  refuse("another number of outputs", [](Graph& g) { g.nodes[1].outputs = {5, 5}; });
  for (const int output : {-1, 6, 0, 1, 3}) {
    refuse("writes a value of another kind", [=](Graph& g) { g.nodes[0].outputs[0] = output; });
  }
  refuse("written before", [](Graph& g) { g.nodes[1].outputs[0] = 2; });
  refuse("kind or type", [](Graph& g) { g.values[5].type.shape = {2, 9}; });
  refuse("kind or type", [](Graph& g) { g.values[5].type.dtype = DType::bf16; });

  // Outputs.
  refuse("no outputs", [](Graph& g) { g.outputs.clear(); });
  for (const int value : {-1, 6, 0, 1, 3}) {
    refuse("is not the result of an operator", [=](Graph& g) { g.outputs[1].value = value; });
  }
  refuse("is not the result of an operator", [](Graph& g) {
    g.nodes.pop_back();  // nothing computes it
  });
}

// k = 0 would divide by zero in the kernels.
void test_sums_of_nothing() {
  struct Use {
    const OperatorRow* row;
    std::vector<Shape> inputs;
  };
  const Use uses[] = {
      {&operators::linear, {{2, 0}, {3, 0}}},
      {&operators::linear, {{2, 0}, {0}}},
      {&operators::layer_norm, {{2, 0}, {0}, {0}}},
      {&operators::attention, {{2, 0}, {2, 0}, {2, 0}}},
      {&operators::patch_embedding, {{1, 0, 4, 4}, {8, 0, 4, 4}, {8}, {2, 8}}},
      {&operators::patch_embedding, {{1, 3, 4, 4}, {8, 3, 0, 0}, {8}, {2, 8}}},
  };
  for (const Use& use : uses) {
    std::vector<TensorType> types;
    for (const Shape& shape : use.inputs) types.push_back({DType::f32, shape});
    std::vector<const TensorType*> inputs;
    for (const TensorType& type : types) inputs.push_back(&type);
    const std::string code = test::code_of<EngineError>([&] { use.row->shapes(checked_arguments(*use.row, inputs, {})); });
    check(code == kInvalidArgument, std::string(use.row->name) + " refuses sums of nothing, " + to_string(use.inputs[0]));
  }
}

// Whose kernels read several inputs by one count: each of them in turn has one row or column more, or is of another type.
void test_inputs_that_do_not_fit() {
  for (const OperatorRow* row : {&operators::attention_gradient, &operators::concat_rows_gradient, &operators::adamw}) {
    for (const OperatorCase& one : row->cases) {
      std::vector<TensorType> good;
      for (size_t i = 0; i < one.inputs.size(); ++i) {
        good.push_back({row->inputs[i].role == InputRole::index ? DType::i32 : DType::f32, one.inputs[i]});
      }
      const auto code = [&](const std::vector<TensorType>& types) {
        std::vector<const TensorType*> inputs;
        for (const TensorType& type : types) inputs.push_back(type.shape.empty() ? nullptr : &type);
        return test::code_of<EngineError>([&] { row->shapes(checked_arguments(*row, inputs, one.attributes)); });
      };
      check(code(good).empty(), std::string(row->name) + " takes its case");
      for (size_t i = 0; i < good.size(); ++i) {
        if (good[i].shape.empty()) continue;
        for (size_t dimension = 0; dimension <= good[i].shape.size(); ++dimension) {
          // Rows and columns that are only added up: no other input has to be as many.
          if (row == &operators::concat_rows_gradient && i == 0 && dimension < 2) continue;
          std::vector<TensorType> bad = good;
          if (dimension < good[i].shape.size()) {
            ++bad[i].shape[dimension];
          } else {
            bad[i].shape.push_back(1);
          }
          check(code(bad) == kInvalidArgument,
                std::string(row->name) + " refuses " + to_string(bad[i]) + " as " + row->inputs[i].name);
        }
        std::vector<TensorType> bad = good;
        bad[i].dtype = good[i].dtype == DType::i32 ? DType::f32 : DType::i32;
        check(code(bad) == kInvalidArgument,
              std::string(row->name) + " refuses " + to_string(bad[i]) + " as " + row->inputs[i].name);
      }
    }
  }
}

// A gate has as many columns as the rows that it multiplies, and divides them.
void test_gates() {
  const TensorType rows{DType::f32, {6, 5}}, narrow{DType::bf16, {6, 5}}, x{DType::f32, {6, 4}}, weight{DType::f32, {5, 4}};
  const auto refusal = [](const OperatorRow& row, const std::vector<const TensorType*>& inputs, const Attributes& attributes) {
    try {
      row.shapes(checked_arguments(row, inputs, attributes));
    } catch (const EngineError& error) {
      return std::string(error.code()) + ": " + error.what();
    }
    return std::string();
  };
  const auto of = [&](const OperatorRow& row, const TensorType& gate) {
    return row.name == std::string("linear") ? refusal(row, {&x, &weight, nullptr, nullptr, &gate}, {})
                                             : refusal(row, {&rows, &gate, &rows}, {});
  };
  for (const OperatorRow* row : {&operators::linear, &operators::gate_gradient}) {
    const std::string name = row->name;
    for (const int64_t gates : {1, 2, 3, 6}) {
      check(of(*row, {DType::f32, {gates, 5}}).empty(), name + " takes " + std::to_string(gates) + " gates for 6 rows");
    }
    for (const TensorType& gate : {TensorType{DType::f32, {4, 5}},
                                   {DType::f32, {12, 5}},
                                   {DType::f32, {0, 5}},
                                   {DType::f32, {2, 4}},
                                   {DType::f32, {2, 6}},
                                   {DType::f32, {5}},
                                   {DType::f32, {1, 2, 5}},
                                   {DType::bf16, {2, 5}}}) {
      const std::string expected = std::string(kInvalidArgument) + ": " + name + ": gate is " + to_string(gate) +
                                   ", expected f32[gates, 5] of gates that divide 6 rows";
      const std::string said = of(*row, gate);
      check(said == expected, name + " refuses a gate " + to_string(gate) + ", got \"" + said + "\"");
    }
  }
  const TensorType gate{DType::f32, {2, 5}}, wider{DType::f32, {6, 6}}, vector{DType::f32, {5}};
  const auto refuses = [&](const std::string& words, const TensorType& dy, const TensorType* value,
                           const Attributes& attributes) {
    const std::string said = refusal(operators::gate_gradient, {&dy, &gate, value}, attributes);
    check(said.find(words) != std::string::npos, "gate_gradient refuses with \"" + words + "\", got \"" + said + "\"");
  };
  refuses("dy is f32[5], expected two dimensions", vector, nullptr, {});
  refuses("value is f32[6, 6], expected [6, 5]", rows, &wider, {});
  refuses("output must be f32 or bf16", rows, nullptr, {{"output", std::string("f16")}});
  refuses("\"relu\", expected none, gelu or quick_gelu", rows, &rows, {{"activation", std::string("relu")}});
  refuses("\"gelu\" without value, expected both or none", rows, nullptr, {{"activation", std::string("gelu")}});
  check(refusal(operators::gate_gradient, {&narrow, &gate, &narrow}, {}).empty(), "gate_gradient takes bf16");
}

}  // namespace

int main() {
  test_rules();
  test_sums_of_nothing();
  test_inputs_that_do_not_fit();
  test_gates();
  return test::finish();
}
