#include <map>
#include <string_view>

#include "cuda/operators/operators.h"

namespace omni_id::cuda {

MakeKernel kernel_for(const OperatorRow& row) {
  static const std::map<std::string_view, MakeKernel> column = {
      {"add", make_add},
      {"activation_gradient", make_activation_gradient},
      {"column_sums", make_column_sums},
      {"layer_norm", make_layer_norm},
      {"layer_norm_gradient", make_layer_norm_gradient},
      {"masked_l1", make_masked_l1},
      {"masked_l1_gradient", make_masked_l1_gradient},
      {"gradient_norm", make_gradient_norm},
      {"adamw", make_adamw},
      {"concat_rows", make_concat_rows},
      {"concat_rows_gradient", make_concat_rows_gradient},
  };
  const auto found = column.find(row.name);
  return found == column.end() ? nullptr : found->second;
}

}  // namespace omni_id::cuda
