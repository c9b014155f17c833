#include <map>
#include <string_view>

#include "cuda/operators/operators.h"

namespace omni_id::cuda {

MakeKernel kernel_for(const OperatorRow& row) {
  static const std::map<std::string_view, MakeKernel> column = {
      {"attention", make_attention},
      {"attention_gradient", make_attention_gradient},
      {"add", make_add},
      {"activation_gradient", make_activation_gradient},
      {"gate_gradient", make_gate_gradient},
      {"column_sums", make_column_sums},
      {"place_columns", make_place_columns},
      {"linear", make_linear},
      {"linear_input_gradient", make_linear_input_gradient},
      {"linear_weight_gradient", make_linear_weight_gradient},
      {"patch_embedding", make_patch_embedding},
      {"patch_embedding_gradient", make_patch_embedding_gradient},
      {"layer_norm", make_layer_norm},
      {"layer_norm_gradient", make_layer_norm_gradient},
      {"masked_l1", make_masked_l1},
      {"masked_l1_gradient", make_masked_l1_gradient},
      {"gradient_norm", make_gradient_norm},
      {"adamw", make_adamw},
      {"concat_rows", make_concat_rows},
      {"concat_rows_gradient", make_concat_rows_gradient},
      {"patch_gather", make_patch_gather},
      {"patch_gather_gradient", make_patch_gather_gradient},
      {"patch_scatter", make_patch_scatter},
      {"patch_scatter_gradient", make_patch_scatter_gradient},
  };
  const auto found = column.find(row.name);
  return found == column.end() ? nullptr : found->second;
}

}  // namespace omni_id::cuda
