#pragma once

#include "cpu/device.h"

namespace omni_id::cpu {

// Shares one GEMM among the device's workers.
//
// Strategy: the output is cut into blocks of at most kRowsPerBlock × kPanelsPerBlock panels, so that a worker's partial sums
// (264 × 128 floats, 132 KiB), its rows of A and its panels' current pieces stay in the second-level cache. All row blocks of a
// group of panels follow each other: the group's weights, the larger operand, are read from memory once. Small products are
// cut finer until every worker has several blocks. Where a cut lies never changes an element's sum.
void matrix_product(CpuDevice& device, const Gemm& gemm);

}  // namespace omni_id::cpu
