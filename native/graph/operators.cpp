#include "graph/operators.h"

#include "base/error.h"

namespace omni_id {

const std::vector<const OperatorRow*>& operator_table() {
  static const std::vector<const OperatorRow*> table = {
      &operators::linear,
      &operators::layer_norm,
      &operators::attention,
      &operators::patch_embedding,
      &operators::concat_rows,
      &operators::linear_input_gradient,
      &operators::linear_weight_gradient,
      &operators::layer_norm_gradient,
      &operators::attention_gradient,
      &operators::concat_rows_gradient,
      &operators::place_columns,
      &operators::patch_embedding_gradient,
      &operators::patch_gather,
      &operators::patch_gather_gradient,
      &operators::patch_scatter,
      &operators::patch_scatter_gradient,
      &operators::masked_l1,
      &operators::masked_l1_gradient,
      &operators::add,
      &operators::activation_gradient,
      &operators::gate_gradient,
      &operators::column_sums,
      &operators::gradient_norm,
      &operators::adamw,
  };
  return table;
}

const OperatorRow& operator_named(const std::string& name) {
  std::string known;
  for (const OperatorRow* row : operator_table()) {
    if (name == row->name) return *row;
    known += (known.empty() ? "" : ", ") + std::string(row->name);
  }
  throw EngineError(kInvalidArgument, "unknown operator \"" + name + "\": expected one of " + known);
}

void require(bool holds, const char* op, const std::string& what) {
  if (!holds) throw EngineError(kInvalidArgument, std::string(op) + ": " + what);
}

Arguments checked_arguments(const OperatorRow& row, std::vector<const TensorType*> inputs, const Attributes& attributes) {
  require(inputs.size() <= row.inputs.size(), row.name,
          std::to_string(inputs.size()) + " inputs given, expected " + std::to_string(row.inputs.size()));
  inputs.resize(row.inputs.size(), nullptr);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const InputRule& rule = row.inputs[i];
    require(inputs[i] || rule.optional, row.name, std::string("input ") + rule.name + " is missing");
    if (!inputs[i]) continue;
    elements_of(inputs[i]->shape);
    require((inputs[i]->dtype == DType::i32) == (rule.role == InputRole::index) && inputs[i]->dtype != DType::f16, row.name,
            std::string("input ") + rule.name + " is " + to_string(*inputs[i]) + ", expected " +
                (rule.role == InputRole::index ? "i32" : "f32 or bf16"));
  }
  Arguments arguments{std::move(inputs), {}};
  for (const AttributeRule& rule : row.attributes) arguments.attributes[rule.name] = rule.fallback;
  for (const auto& [name, value] : attributes) {
    const auto known = arguments.attributes.find(name);
    require(known != arguments.attributes.end(), row.name, "unknown attribute " + name);
    // JavaScript has one number type: a whole number stands for a floating one too.
    if (std::holds_alternative<double>(known->second) && std::holds_alternative<int64_t>(value)) {
      known->second = static_cast<double>(std::get<int64_t>(value));
      continue;
    }
    require(known->second.index() == value.index(), row.name, "attribute " + name + " has the wrong type");
    known->second = value;
  }
  return arguments;
}

}  // namespace omni_id
