#include <algorithm>

#include "cpu/device.h"
#include "cpu/operators/operators.h"

namespace omni_id::cpu {

namespace {

constexpr int64_t kRowsPerTask = 32;

class LayerNormKernel final : public Kernel {
 public:
  LayerNormKernel(const Arguments& a, CpuDevice& device) : device_(device), rows_(a[0].shape[0]), norm_{} {
    norm_.columns = a[0].columns();
    norm_.epsilon = static_cast<float>(a.number("epsilon"));
    norm_.out_type = dtype_named(a.text("output")) == DType::bf16 ? kBf16 : kF32;
  }

  void run(const KernelCall& call) override {
    LayerNorm norm = norm_;
    norm.x = call.inputs[0].as<const float>();
    norm.x_stride = call.inputs[0].row_stride;
    norm.weight = call.inputs[1].as<const float>();
    norm.bias = call.inputs[2].as<const float>();
    norm.out = call.outputs[0].data;
    norm.out_stride = call.outputs[0].row_stride;
    device_.pool().parallel_for((rows_ + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
      device_.kernels().layer_norm(&norm, task * kRowsPerTask, std::min(rows_, (task + 1) * kRowsPerTask));
    });
  }

 private:
  CpuDevice& device_;
  int64_t rows_;
  LayerNorm norm_;
};

// Strategy: a task is kGradientRows rows, with sums over them of its own; then those of all tasks are added in order, so that
// they depend on the number of rows alone.
class LayerNormGradientKernel final : public Kernel {
 public:
  LayerNormGradientKernel(const Arguments& a, CpuDevice& device) : device_(device), rows_(a[1].shape[0]), norm_{} {
    norm_.columns = a[1].columns();
    norm_.epsilon = static_cast<float>(a.number("epsilon"));
    norm_.dy_type = a[0].dtype == DType::bf16 ? kBf16 : kF32;
  }

  size_t workspace_bytes() const override { return static_cast<size_t>(tasks() * 2 * norm_.columns) * sizeof(float); }

  void run(const KernelCall& call) override {
    LayerNormGradient norm = norm_;
    norm.dy = call.inputs[0].data;
    norm.dy_stride = call.inputs[0].row_stride;
    norm.x = call.inputs[1].as<const float>();
    norm.x_stride = call.inputs[1].row_stride;
    norm.weight = call.inputs[2].as<const float>();
    norm.sum = call.inputs[3].as<const float>();
    norm.sum_stride = call.inputs[3].row_stride;
    norm.dx = call.outputs[0].as<float>();
    norm.dx_stride = call.outputs[0].row_stride;
    float* sums = reinterpret_cast<float*>(call.workspace);
    device_.parallel_for(tasks(), [&](int64_t task) {
      device_.kernels().layer_norm_gradient(&norm, task * kGradientRows, std::min(rows_, (task + 1) * kGradientRows),
                                            sums + task * 2 * norm.columns);
    });
    for (int64_t which : {0, 1}) {
      const ColumnSums total{sums + which * norm.columns,
                             2 * norm.columns,
                             kF32,
                             tasks(),
                             nullptr,
                             call.outputs[static_cast<size_t>(1 + which)].as<float>()};
      device_.kernels().column_sums(&total, 0, norm.columns);
    }
  }

 private:
  static constexpr int64_t kGradientRows = 32;
  int64_t tasks() const { return (rows_ + kGradientRows - 1) / kGradientRows; }

  CpuDevice& device_;
  int64_t rows_;
  LayerNormGradient norm_;
};

}  // namespace

std::unique_ptr<Kernel> make_layer_norm_gradient(const Arguments& a, CpuDevice& device) {
  return std::make_unique<LayerNormGradientKernel>(a, device);
}

std::unique_ptr<Kernel> make_layer_norm(const Arguments& a, CpuDevice& device) {
  return std::make_unique<LayerNormKernel>(a, device);
}

}  // namespace omni_id::cpu
