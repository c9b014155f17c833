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
      {"column_sums", make_column_sums},
  };
  const auto found = column.find(row.name);
  return found == column.end() ? nullptr : found->second;
}

}  // namespace omni_id::cuda
