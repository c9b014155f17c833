// linear and its gradients, see native/operators/{linear,linear_gradients}.cpp for formulas and shapes, cpu/kernels/gemm.cpp
// for the product.
//
// Strategy: each is one product whose right operand is packed, and whose epilogue does the rest; a packed weight is taken as it
// is, everything else is packed into the workspace first. Cost: 2 · rows · inputs · outputs flops; packing reads and writes the
// right operand once.
#include "cpu/operators/matrix_product.h"
#include "cpu/operators/operators.h"
#include "operators/gates.h"
#include "operators/products.h"

namespace omni_id::cpu {

namespace {

// Rows times the weight, which linear takes transposed and its gradient by x as it lies: x · Wᵀ with a bias, an activation and
// a gate, or d · W with the derivative of an activation, and a sum that is known already.
class RowsTimesWeight final : public Kernel {
 public:
  RowsTimesWeight(const Arguments& a, CpuDevice& device, bool transposed)
      : device_(device), transposed_(transposed), weight_(a, 1, transposed), rows_(a[0], weight_.type()), gemm_{} {
    gemm_.m = a[0].shape[0];
    gemm_.k = a[0].columns();
    gemm_.n = weight_.columns();
    gemm_.weight_type = weight_.type();
    gemm_.activation = activation_of(a.text("activation"));
    gemm_.out_type = element(dtype_named(a.text("output")));
    if (transposed && a.has(4)) gemm_.gate_rows = rows_per_gate(a[4], gemm_.m);
  }

  size_t workspace_bytes() const override { return weight_.workspace_bytes() + rows_.workspace_bytes(); }

  void run(const KernelCall& call) override {
    Gemm gemm = gemm_;
    rows_.ready(device_, call.inputs[0], call.workspace + weight_.workspace_bytes(), gemm);
    gemm.weight = weight_.ready(device_, call.inputs[1], call.workspace);
    if (transposed_) {
      gemm.bias = call.inputs[2].as<const float>();
      gemm.gate = call.inputs[4].as<const float>();
      gemm.gate_stride = call.inputs[4].row_stride;
    } else {
      gemm.derivative_at = call.inputs[2].data;
      gemm.derivative_stride = call.inputs[2].row_stride;
      gemm.derivative_type = element(call.inputs[2].type.dtype);
    }
    gemm.residual = call.inputs[3].as<const float>();
    gemm.residual_stride = call.inputs[3].row_stride;
    gemm.out = call.outputs[0].data;
    gemm.out_stride = call.outputs[0].row_stride;
    if (call.outputs.size() > 1) {
      gemm.kept = call.outputs[1].data;
      gemm.kept_stride = call.outputs[1].row_stride;
    }
    matrix_product(device_, gemm);
  }

 private:
  CpuDevice& device_;
  bool transposed_;
  Multiplier weight_;
  Multiplicand rows_;
  Gemm gemm_;
};

class LinearWeightGradient final : public Kernel {
 public:
  LinearWeightGradient(const Arguments& a, CpuDevice& device) : device_(device), x_{}, gemm_{} {
    gemm_.m = a[0].columns();
    gemm_.k = x_.k = a[0].shape[0];
    gemm_.n = x_.n = a[1].columns();
    gemm_.a_type = element(a[0].dtype);
    gemm_.a_transposed = true;
    gemm_.weight_type = x_.to_type = element(product_type(a, a[1]));
    gemm_.out_type = kF32;
    x_.from_type = element(a[1].dtype);
    x_.activation = activation_of(a.text("activation"));
  }

  size_t workspace_bytes() const override { return packed_bytes(x_); }

  void run(const KernelCall& call) override {
    const TensorView &d = call.inputs[0], &x = call.inputs[1];
    PackPanels panels = x_;
    panels.from = x.data;
    panels.stride = x.row_stride;
    panels.to = call.workspace;
    pack(device_, panels);
    Gemm gemm = gemm_;
    gemm.a = d.data;
    gemm.a_stride = d.row_stride;
    gemm.weight = panels.to;
    gemm.residual = call.inputs[2].as<const float>();
    gemm.out = call.outputs[0].data;
    gemm.out_stride = call.outputs[0].row_stride;
    // The sum has the weight's shape, which may have more dimensions: then it lies in one piece.
    gemm.residual_stride = call.inputs[2].type.shape.size() == 2 ? call.inputs[2].row_stride : gemm_.n;
    matrix_product(device_, gemm);
  }

 private:
  CpuDevice& device_;
  PackPanels x_;
  Gemm gemm_;
};

}  // namespace

std::unique_ptr<Kernel> make_linear(const Arguments& a, CpuDevice& device) {
  return std::make_unique<RowsTimesWeight>(a, device, true);
}

std::unique_ptr<Kernel> make_linear_input_gradient(const Arguments& a, CpuDevice& device) {
  return std::make_unique<RowsTimesWeight>(a, device, false);
}

std::unique_ptr<Kernel> make_linear_weight_gradient(const Arguments& a, CpuDevice& device) {
  return std::make_unique<LinearWeightGradient>(a, device);
}

}  // namespace omni_id::cpu
