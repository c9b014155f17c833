// add, y = a + b; activation_gradient, dx = dy ⊙ activation'(x); column_sums, y[j] = Σ x[i, j] (+ sum[j]). a, b, y, dy, x and
// dx [rows, columns] of any rank, seen as matrices whose rows may lie apart; y of column_sums [columns].
//
// Strategy: elementwise operators share rows among the workers, as many as hold kElementsPerTask elements; a row is one call of
// a kernel. Column sums share columns, kColumnsPerTask at a time (two cache lines of f32), and take all rows in order, so that
// a sum depends neither on the cut nor on the threads. Cost: every operand is read once and the result written once, 1 flop an
// element, about 20 for an activation's gradient: bound by memory.
#include <algorithm>

#include "cpu/operators/matrix_product.h"
#include "cpu/operators/operators.h"

namespace omni_id::cpu {

namespace {

constexpr int64_t kElementsPerTask = 16384;
constexpr int64_t kColumnsPerTask = 32;

// Rows need not follow each other without gaps, so a task is some of them, as many as hold about kElementsPerTask.
class ElementwiseKernel final : public Kernel {
 public:
  ElementwiseKernel(const Arguments& a, CpuDevice& device, void (*run)(const Elementwise*))
      : device_(device), run_(run), rows_(a[0].rows()), columns_(a[0].columns()), one_{} {
    one_.type = element(a[0].dtype);
    one_.b_type = element(a[1].dtype);
    one_.count = columns_;
    if (const auto activation = a.attributes.find("activation"); activation != a.attributes.end()) {
      one_.activation = activation_of(std::get<std::string>(activation->second));
    }
  }

  void run(const KernelCall& call) override {
    const int64_t rows_per_task = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, columns_));
    const auto at = [](const TensorView& view, int64_t row) {
      return view.data + row * view.row_stride * static_cast<int64_t>(size_of(view.type.dtype));
    };
    device_.parallel_for((rows_ + rows_per_task - 1) / rows_per_task, [&](int64_t task) {
      for (int64_t row = task * rows_per_task; row < std::min(rows_, (task + 1) * rows_per_task); ++row) {
        Elementwise one = one_;
        one.a = at(call.inputs[0], row);
        one.b = at(call.inputs[1], row);
        one.out = at(call.outputs[0], row);
        run_(&one);
      }
    });
  }

 private:
  CpuDevice& device_;
  void (*run_)(const Elementwise*);
  int64_t rows_, columns_;
  Elementwise one_;
};

class ColumnSumsKernel final : public Kernel {
 public:
  ColumnSumsKernel(const Arguments& a, CpuDevice& device) : device_(device), columns_(a[0].columns()), sums_{} {
    sums_.rows = a[0].shape[0];
    sums_.type = element(a[0].dtype);
  }

  void run(const KernelCall& call) override {
    ColumnSums sums = sums_;
    sums.x = call.inputs[0].data;
    sums.stride = call.inputs[0].row_stride;
    sums.sum = call.inputs[1].as<const float>();
    sums.out = call.outputs[0].as<float>();
    device_.parallel_for((columns_ + kColumnsPerTask - 1) / kColumnsPerTask, [&](int64_t task) {
      device_.kernels().column_sums(&sums, task * kColumnsPerTask, std::min(columns_, (task + 1) * kColumnsPerTask));
    });
  }

 private:
  CpuDevice& device_;
  int64_t columns_;
  ColumnSums sums_;
};

}  // namespace

std::unique_ptr<Kernel> make_add(const Arguments& a, CpuDevice& device) {
  return std::make_unique<ElementwiseKernel>(a, device, device.kernels().add);
}

std::unique_ptr<Kernel> make_activation_gradient(const Arguments& a, CpuDevice& device) {
  return std::make_unique<ElementwiseKernel>(a, device, device.kernels().activation_gradient);
}

std::unique_ptr<Kernel> make_column_sums(const Arguments& a, CpuDevice& device) {
  return std::make_unique<ColumnSumsKernel>(a, device);
}

}  // namespace omni_id::cpu
