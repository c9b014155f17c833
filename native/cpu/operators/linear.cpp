#include "cpu/operators/matrix_product.h"
#include "cpu/operators/operators.h"

namespace omni_id::cpu {

namespace {

ElementType element(DType dtype) { return dtype == DType::bf16 ? kBf16 : kF32; }

class Linear final : public Kernel {
 public:
  Linear(const Arguments& a, CpuDevice& device) : device_(device) {
    gemm_ = {};
    gemm_.m = a[0].shape[0];
    gemm_.k = a[0].columns();
    gemm_.n = a[1].shape[0];
    gemm_.a_type = element(a[0].dtype);
    gemm_.weight_type = element(a[1].dtype);
    const std::string& activation = a.text("activation");
    gemm_.activation = activation == "gelu" ? kGelu : activation == "quick_gelu" ? kQuickGelu : kNoActivation;
    gemm_.out_type = element(dtype_named(a.text("output")));
  }

  void run(const KernelCall& call) override {
    Gemm gemm = gemm_;
    gemm.a = call.inputs[0].data;
    gemm.a_stride = call.inputs[0].row_stride;
    gemm.weight = call.inputs[1].data;
    gemm.bias = call.inputs[2].as<const float>();
    gemm.residual = call.inputs[3].as<const float>();
    gemm.residual_stride = call.inputs[3].row_stride;
    gemm.out = call.outputs[0].data;
    gemm.out_stride = call.outputs[0].row_stride;
    matrix_product(device_, gemm);
  }

 private:
  CpuDevice& device_;
  Gemm gemm_;
};

}  // namespace

std::unique_ptr<Kernel> make_linear(const Arguments& a, CpuDevice& device) { return std::make_unique<Linear>(a, device); }

}  // namespace omni_id::cpu
