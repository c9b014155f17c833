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

}  // namespace

std::unique_ptr<Kernel> make_layer_norm(const Arguments& a, CpuDevice& device) {
  return std::make_unique<LayerNormKernel>(a, device);
}

}  // namespace omni_id::cpu
