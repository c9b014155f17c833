#pragma once

#include <string>
#include <vector>

#include "graph/operators.h"

namespace omni_id {

// A symbolic value of a model: nothing is computed until a plan runs.
struct Value {
  enum class Kind {
    input,   // given with every run
    weight,  // named tensors of the weight store, concatenated along the first dimension
    result,  // an output of a node
    view,    // columns [column, column + columns) of another value of one or two dimensions, without a copy
    join,    // several results side by side in one row, without a copy: their operators write into it
  };
  Kind kind = Kind::input;
  TensorType type;
  std::string name;                // of an input
  std::vector<std::string> parts;  // of a weight
  int source = -1;                 // of a view
  int64_t column = 0;              // of a view
  std::vector<int> joined = {};    // of a join: results, each in no other join and not an output
};

// One use of an operator. Values are indices into Graph::values, −1 an absent optional input.
struct Node {
  const OperatorRow* row = nullptr;
  std::vector<int> inputs;
  std::vector<int> outputs;
  Attributes attributes;
};

struct GraphOutput {
  std::string name;
  int value = -1;
};

// What TypeScript hands over in one call. Nodes stand in an order in which they can run.
struct Graph {
  std::vector<Value> values;
  std::vector<Node> nodes;
  std::vector<GraphOutput> outputs;
};

// Throws ERR_INVALID_ARGUMENT unless every index is in range, every value is defined before it is used and by one node only,
// views lie inside their source, every node's inputs and outputs have the types that its operator's shape rule says, and no two
// inputs or outputs share a name: a run binds one tensor to a name, and only one size would be checked.
void check(const Graph& graph);

}  // namespace omni_id
