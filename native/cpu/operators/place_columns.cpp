// place_columns, see native/operators/place_columns.cpp.
//
// Strategy: a row is brought over whole, zeros or the sum (nothing, where the sum is in place), and what is placed is added to
// its columns while it lies in the first-level cache. Cost: reads x and sum once, writes y once; bound by memory.
#include <algorithm>

#include "cpu/operators/matrix_product.h"
#include "cpu/operators/operators.h"

namespace omni_id::cpu {

namespace {

constexpr int64_t kElementsPerTask = 16384;

class PlaceColumns final : public Kernel {
 public:
  PlaceColumns(const Arguments& a, CpuDevice& device)
      : device_(device), rows_(a[0].rows()), columns_(a.integer("columns")), column_(a.integer("column")) {}

  void run(const KernelCall& call) override {
    const TensorView &x = call.inputs[0], &sum = call.inputs[1], &y = call.outputs[0];
    const int64_t element_bytes = static_cast<int64_t>(size_of(y.type.dtype));
    const int64_t rows_per_task = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, columns_));
    device_.parallel_for((rows_ + rows_per_task - 1) / rows_per_task, [&](int64_t task) {
      for (int64_t row = task * rows_per_task; row < std::min(rows_, (task + 1) * rows_per_task); ++row) {
        std::byte* to = y.data + row * y.row_stride * element_bytes;
        const size_t bytes = static_cast<size_t>(columns_ * element_bytes);
        if (!sum.data) {
          std::fill(to, to + bytes, std::byte{0});
        } else if (const std::byte* from = sum.data + row * sum.row_stride * element_bytes; from != to) {
          copy_bytes(to, from, bytes);
        }
        Elementwise one{};
        one.a = one.out = to + column_ * element_bytes;
        one.type = element(y.type.dtype);
        one.b = x.data + row * x.row_stride * static_cast<int64_t>(size_of(x.type.dtype));
        one.b_type = element(x.type.dtype);
        one.count = x.type.columns();
        device_.kernels().add(&one);
      }
    });
  }

 private:
  CpuDevice& device_;
  int64_t rows_, columns_, column_;
};

}  // namespace

std::unique_ptr<Kernel> make_place_columns(const Arguments& a, CpuDevice& device) {
  return std::make_unique<PlaceColumns>(a, device);
}

}  // namespace omni_id::cpu
