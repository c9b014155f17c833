#include "cpu/operators/matrix_product.h"

#include <algorithm>

namespace omni_id::cpu {

namespace {

constexpr int64_t kRowsPerBlock = 264;  // an image of ViT-H (257 tokens) is one block
constexpr int64_t kPanelsPerBlock = 4;
constexpr int64_t kRowGranule = 12;  // every instruction set's tile height divides it
constexpr int64_t kLeastRows = 48;
constexpr int64_t kBlocksPerWorker = 16;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

void matrix_product(CpuDevice& device, const Gemm& gemm) {
  if (gemm.m == 0 || gemm.n == 0) return;
  const int64_t panels = divide_up(gemm.n, kPanelColumns);
  const auto even_rows = [&](int64_t blocks) { return divide_up(divide_up(gemm.m, blocks), kRowGranule) * kRowGranule; };
  int64_t rows_per_block = even_rows(divide_up(gemm.m, kRowsPerBlock));
  int64_t panels_per_block = std::min(panels, kPanelsPerBlock);
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

}  // namespace omni_id::cpu
