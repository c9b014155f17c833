#pragma once

#include <cstdint>

#include "cuda/runtime.h"

// The end of sums over rows: blocks leave sums of fixed numbers of rows in the workspace, and these add them up.
namespace omni_id::cuda {

// out[j] = Σ i of partial[i, j] (+ sum[j]), with rows `pitch` elements apart; in an order that depends on `rows` alone.
void add_partial_sums(const Stream& stream, const float* partial, int64_t rows, int64_t pitch, int64_t columns,
                      const float* sum, float* out);

}  // namespace omni_id::cuda
