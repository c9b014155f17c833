#include "cpu/operators/matrix_product.h"

#include <algorithm>

#include "operators/products.h"

namespace omni_id::cpu {

namespace {

constexpr int64_t kRowsPerBlock = 264;  // an image of ViT-H (257 tokens) is one block
constexpr int64_t kPanelsPerBlock = 4;
constexpr int64_t kTransposedRows = 96, kTransposedPanels = 12;  // partial sums of 144 KiB
constexpr int64_t kRowGranule = 12;                              // every instruction set's tile height divides it
constexpr int64_t kLeastRows = 48;
constexpr int64_t kBlocksPerWorker = 16;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

void matrix_product(CpuDevice& device, const Gemm& gemm) {
  if (gemm.m == 0 || gemm.n == 0) return;
  const int64_t panels = divide_up(gemm.n, kPanelColumns);
  const auto even_rows = [&](int64_t blocks) { return divide_up(divide_up(gemm.m, blocks), kRowGranule) * kRowGranule; };
  int64_t rows_per_block = even_rows(divide_up(gemm.m, gemm.a_transposed ? kTransposedRows : kRowsPerBlock));
  int64_t panels_per_block = std::min(panels, gemm.a_transposed ? kTransposedPanels : kPanelsPerBlock);
  const auto blocks = [&] { return divide_up(gemm.m, rows_per_block) * divide_up(panels, panels_per_block); };
  const int64_t wanted = device.threads() > 1 ? kBlocksPerWorker * device.threads() : 1;
  while (blocks() < wanted && panels_per_block > 1) panels_per_block = divide_up(panels_per_block, 2);
  while (blocks() < wanted && rows_per_block > kLeastRows) rows_per_block = even_rows(divide_up(gemm.m, rows_per_block) * 2);

  const KernelTable& kernels = device.kernels();
  device.reserve_scratch(kernels.gemm_scratch_bytes(&gemm, rows_per_block, panels_per_block));
  const int64_t row_blocks = divide_up(gemm.m, rows_per_block);
  device.pool().parallel_for(blocks(), [&](int64_t block, int worker) {
    const int64_t row = block % row_blocks * rows_per_block;
    const int64_t panel = block / row_blocks * panels_per_block;
    kernels.gemm_block(&gemm, row, std::min(gemm.m, row + rows_per_block), panel, std::min(panels, panel + panels_per_block),
                       device.scratch(worker));
  });
}

size_t packed_bytes(const PackPanels& panels) {
  const int64_t depth = panels.to_type == kBf16 ? divide_up(panels.k, 2) * 2 : panels.k;
  return static_cast<size_t>(divide_up(panels.n, kPanelColumns) * kPanelColumns * depth) * (panels.to_type == kBf16 ? 2 : 4);
}

void pack(CpuDevice& device, const PackPanels& panels) {
  device.pool().parallel_for(divide_up(panels.n, kPanelColumns),
                             [&](int64_t panel, int) { device.kernels().pack_panels(&panels, panel, panel + 1); });
}

Multiplier::Multiplier(const Arguments& a, size_t input, bool transposed) : packed_(a.is_packed(input)), panels_{} {
  const TensorType& type = a[input];
  const int64_t rows = type.shape[0], columns = type.elements() / rows;
  panels_.from_type = element(type.dtype);
  panels_.to_type = element(product_type(a, type));
  panels_.transposed = transposed;
  require(!packed_ || panels_.from_type == panels_.to_type, "matrix",
          "a packed weight is multiplied in its own type, " + std::string(name_of(type.dtype)));
  panels_.n = transposed ? rows : columns;
  panels_.k = transposed ? columns : rows;
}

const void* Multiplier::ready(CpuDevice& device, const TensorView& matrix, std::byte* workspace) const {
  if (packed_) return matrix.data;
  PackPanels panels = panels_;
  panels.from = matrix.data;
  // A matrix may be columns of another; of more dimensions it lies in one piece.
  panels.stride = matrix.type.shape.size() == 2 ? matrix.row_stride : panels.transposed ? panels.k : panels.n;
  panels.to = workspace;
  pack(device, panels);
  return workspace;
}

Multiplicand::Multiplicand(const TensorType& type, ElementType product)
    : rounds_(type.dtype == DType::f32 && product == kBf16), rows_(type.rows()), columns_(type.columns()) {}

void Multiplicand::ready(CpuDevice& device, const TensorView& x, std::byte* workspace, Gemm& gemm) const {
  if (!rounds_) {
    gemm.a = x.data;
    gemm.a_stride = x.row_stride;
    gemm.a_type = element(x.type.dtype);
    return;
  }
  constexpr int64_t kRowsPerTask = 32;
  uint16_t* to = reinterpret_cast<uint16_t*>(workspace);
  device.parallel_for(divide_up(rows_, kRowsPerTask), [&](int64_t task) {
    for (int64_t row = task * kRowsPerTask; row < std::min(rows_, (task + 1) * kRowsPerTask); ++row) {
      device.kernels().to_bf16(x.as<const float>() + row * x.row_stride, columns_, to + row * columns_);
    }
  });
  gemm.a = workspace;
  gemm.a_stride = columns_;
  gemm.a_type = kBf16;
}

Activation activation_of(const std::string& name) {
  return name == "gelu" ? kGelu : name == "quick_gelu" ? kQuickGelu : kNoActivation;
}

}  // namespace omni_id::cpu
