#pragma once

#include <cstdint>

#include "base/error.h"
#include "graph/operators.h"

namespace omni_id {

// Offsets arrive with every run, from outside: kernels may trust them only after this. They must start at 0, never fall, and
// end at `rows`.
inline void check_offsets(const char* op, const char* name, const int32_t* offsets, int64_t count, int64_t rows) {
  bool good = offsets[0] == 0 && offsets[count] == rows;
  for (int64_t i = 0; i < count; ++i) good = good && offsets[i] <= offsets[i + 1];
  require(good, op, std::string(name) + " must rise from 0 to " + std::to_string(rows));
}

}  // namespace omni_id
