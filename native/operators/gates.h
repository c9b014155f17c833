#pragma once

#include <algorithm>

#include "graph/operators.h"

// A gate [gates, columns] multiplies rows in as many groups, of rows that follow each other: row i by row i / (rows / gates) of
// the gate. In diffusion transformers a group is the tokens of an image.
namespace omni_id {

inline void require_gate(const TensorType& gate, const TensorType& rows, const char* op) {
  const bool fits = gate.dtype == DType::f32 && gate.shape.size() == 2 && gate.columns() == rows.columns();
  require(fits && (gate.shape[0] > 0 ? rows.shape[0] % gate.shape[0] == 0 : rows.shape[0] == 0), op,
          "gate is " + to_string(gate) + ", expected f32[gates, " + std::to_string(rows.columns()) + "] of gates that divide " +
              std::to_string(rows.shape[0]) + " rows");
}

// Without gates there are no rows either.
inline int64_t rows_per_gate(const TensorType& gate, int64_t rows) { return rows / std::max<int64_t>(1, gate.shape[0]); }

}  // namespace omni_id
