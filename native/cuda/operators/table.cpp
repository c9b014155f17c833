#include <map>
#include <string_view>

#include "cuda/operators/operators.h"

namespace omni_id::cuda {

MakeKernel kernel_for(const OperatorRow& row) {
  static const std::map<std::string_view, MakeKernel> column = {
      {"add", make_add},
      {"activation_gradient", make_activation_gradient},
      {"column_sums", make_column_sums},
      {"patch_gather", make_patch_gather},
      {"patch_gather_gradient", make_patch_gather_gradient},
      {"patch_scatter", make_patch_scatter},
      {"patch_scatter_gradient", make_patch_scatter_gradient},
  };
  const auto found = column.find(row.name);
  return found == column.end() ? nullptr : found->second;
}

}  // namespace omni_id::cuda
