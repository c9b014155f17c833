#pragma once

#include "cpu/device.h"

namespace omni_id::cpu {

Activation activation_of(const std::string& name);

inline ElementType element(DType dtype) { return dtype == DType::bf16 ? kBf16 : kF32; }

// Shares one GEMM among the device's workers.
//
// Strategy: the output is cut into blocks of at most kRowsPerBlock × kPanelsPerBlock panels, so that a worker's partial sums
// (264 × 128 floats, 132 KiB), its rows of A and its panels' current pieces stay in the second-level cache. All row blocks of a
// group of panels follow each other: the group's weights, the larger operand, are read from memory once. Small products are
// cut finer until every worker has several blocks. Where a cut lies never changes an element's sum. A transposed left operand
// is brought into blocks anew for every group of panels: then a block has few rows and many panels.
void matrix_product(CpuDevice& device, const Gemm& gemm);

// Memory in an operator's workspace: kernels want it aligned to cache lines.
inline size_t aligned_bytes(size_t bytes) { return (bytes + 63) / 64 * 64; }

size_t packed_bytes(const PackPanels& panels);
// By the workers, into `to`, which holds packed_bytes.
void pack(CpuDevice& device, const PackPanels& panels);

// A matrix that an operator multiplies by: a packed weight as it is, anything else packed into the workspace before the
// product.
class Multiplier {
 public:
  // Of input `input`, [outputs, ...]. `transposed`: its rows are the columns of the product.
  Multiplier(const Arguments& a, size_t input, bool transposed);

  ElementType type() const { return panels_.to_type; }
  int64_t columns() const { return panels_.n; }  // of the product
  size_t workspace_bytes() const { return packed_ ? 0 : aligned_bytes(packed_bytes(panels_)); }
  // What a Gemm takes as its weight. `workspace` holds workspace_bytes.
  const void* ready(CpuDevice& device, const TensorView& matrix, std::byte* workspace) const;

 private:
  bool packed_;
  PackPanels panels_;
};

// The left operand of a product in the type of its weight: as it is, or rounded to bfloat16 once into the workspace, where the
// product would do it again for every few panels.
class Multiplicand {
 public:
  Multiplicand(const TensorType& type, ElementType product);

  size_t workspace_bytes() const { return rounds_ ? aligned_bytes(static_cast<size_t>(rows_ * columns_) * 2) : 0; }
  // Sets a, a_stride and a_type.
  void ready(CpuDevice& device, const TensorView& x, std::byte* workspace, Gemm& gemm) const;

 private:
  bool rounds_;
  int64_t rows_, columns_;
};

}  // namespace omni_id::cpu
