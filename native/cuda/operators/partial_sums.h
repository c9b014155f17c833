#pragma once

#include <cstdint>

#include "cuda/runtime.h"

// The end of sums over rows: blocks leave sums of fixed numbers of rows in the workspace, and these add them up.
namespace omni_id::cuda {

// out[j] = Σ i of partial[i, j] (+ sum[j]), with rows `pitch` elements apart; in an order that depends on `rows` alone.
struct PartialSums {
  const float* partial;
  int64_t rows, pitch, columns;
  const float* sum;
  float* out;
  // Of a matrix `out`, its columns and the elements from row to row: what is beyond a row goes on in the next.
  int64_t out_columns = INT64_MAX, out_stride = 0;
};

// One launch for both.
void add_partial_sums(const Stream& stream, const PartialSums& one, const PartialSums& another = {});

}  // namespace omni_id::cuda
