// linear and its gradients, three products of which each reads both operands as they lie in memory:
//   linear:                 y = gate ⊙ activation(x · Wᵀ + b) + residual           x [rows, inputs], W [outputs, inputs]
//   linear_input_gradient:  dx = d · W (⊙ activation'(derivative_at)) + sum        d [rows, outputs]
//   linear_weight_gradient: dW = dᵀ · activation(x) + sum
// Strategy, tiles, bytes and flops: gemm.cuh; what follows the sums: gemm_epilogue.cuh. As operands of rows by depth, x, W and
// the d of dx have a contiguous depth; the W of dx, and d and x of dW, have contiguous rows. An operand of another type than
// the product's, and x with an activation, is converted first (matrix_product.cuh; at most 39 registers).
#include "cuda/operators/matrix_product.cuh"
#include "operators/gates.h"
#include "operators/products.h"

namespace omni_id::cuda {

namespace {

bool allows_columns(const TensorView& view) {
  const size_t size = size_of(view.type.dtype);
  return !view.data || allows(static_cast<int64_t>(4 * size), view.data, view.row_stride, size);
}

// One product of two matrices, in the type `product`, and its place in the workspace.
template <Contiguous left_contiguous, Contiguous right_contiguous>
class LinearBase : public CudaKernel {
 public:
  size_t workspace_bytes() const override {
    return left_.workspace_bytes() + right_.workspace_bytes() + product_.workspace_bytes();
  }

 protected:
  LinearBase(const OperatorRow& row, CudaDevice& device, DType type, Operand left, Operand right, int64_t rows, int64_t columns,
             int64_t depth)
      : CudaKernel(row, device),
        type_(type),
        left_(left),
        right_(right),
        rows_(rows),
        columns_(columns),
        product_(rows, columns, depth, device.properties().multiprocessors) {}

  void multiply(const KernelCall& call, const TensorView& left, const TensorView& right, const Epilogue& epilogue,
                const Stream& stream) const {
    if (rows_ == 0) return;
    std::byte* workspace = call.workspace;
    const ReadyOperand of_left = left_.ready(stream, left, workspace);
    workspace += left_.workspace_bytes();
    const ReadyOperand of_right = right_.ready(stream, right, workspace);
    workspace += right_.workspace_bytes();
    with_type(type_, [&]<typename T>(T) {
      product_.multiply(stream, operand<T, left_contiguous>(of_left, rows_), operand<T, right_contiguous>(of_right, columns_),
                        epilogue, workspace);
    });
  }

 private:
  DType type_;
  Operand left_, right_;
  int64_t rows_, columns_;
  MatrixProduct product_;
};

void set_result(const TensorView& out, const TensorView& addend, Epilogue& e) {
  e.addend = addend.as<const float>();
  e.addend_stride = addend.row_stride;
  e.out = out.data;
  e.out_stride = out.row_stride;
  e.out_bf16 = out.type.dtype == DType::bf16;
  e.vectors = allows_columns(out) && (!addend.data || allows(16, addend.data, e.addend_stride, sizeof(float)));
}

class LinearKernel final : public LinearBase<Contiguous::depth, Contiguous::depth> {
 public:
  LinearKernel(const Arguments& a, CudaDevice& device)
      : LinearBase(operators::linear, device, product_type(a, a[1]), Operand(a[0], product_type(a, a[1])),
                   Operand(a[1], product_type(a, a[1])), a[0].shape[0], a[1].shape[0], a[0].columns()),
        activation_(activation_named(a.text("activation"))),
        rows_per_gate_(a.has(4) ? rows_per_gate(a[4], a[0].shape[0]) : 0) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    const TensorView& gate = call.inputs[4];
    Epilogue e;
    set_result(call.outputs[0], call.inputs[3], e);
    e.bias = call.inputs[2].as<const float>();
    e.activation = activation_;
    e.gate = gate.as<const float>();
    e.gate_stride = gate.row_stride;
    e.gate_rows = static_cast<unsigned>(rows_per_gate_);
    e.vectors = e.vectors && allows(16, e.bias, 0, sizeof(float)) && allows_columns(gate);
    if (call.outputs.size() > 1) {
      e.kept = call.outputs[1].data;
      e.kept_stride = call.outputs[1].row_stride;
      e.vectors = e.vectors && allows_columns(call.outputs[1]);
    }
    multiply(call, call.inputs[0], call.inputs[1], e, stream);
  }

  Activation activation_;
  int64_t rows_per_gate_;
};

class LinearInputGradientKernel final : public LinearBase<Contiguous::depth, Contiguous::rows> {
 public:
  LinearInputGradientKernel(const Arguments& a, CudaDevice& device)
      : LinearBase(operators::linear_input_gradient, device, product_type(a, a[1]), Operand(a[0], product_type(a, a[1])),
                   Operand(a[1], product_type(a, a[1])), a[0].shape[0], a[1].elements() / a[1].shape[0], a[0].columns()),
        activation_(activation_named(a.text("activation"))) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    Epilogue e;
    set_result(call.outputs[0], call.inputs[3], e);
    const TensorView& at = call.inputs[2];
    e.activation = activation_;
    e.derivative_at = at.data;
    e.derivative_stride = at.row_stride;
    e.derivative_bf16 = at.type.dtype == DType::bf16;
    e.vectors = e.vectors && allows_columns(at);
    multiply(call, call.inputs[0], call.inputs[1], e, stream);
  }

  Activation activation_;
};

class LinearWeightGradientKernel final : public LinearBase<Contiguous::rows, Contiguous::rows> {
 public:
  LinearWeightGradientKernel(const Arguments& a, CudaDevice& device)
      : LinearBase(operators::linear_weight_gradient, device, product_type(a, a[1]), Operand(a[0], product_type(a, a[1])),
                   Operand(a[1], product_type(a, a[1]), activation_named(a.text("activation"))), a[0].columns(), a[1].columns(),
                   a[0].shape[0]),
        columns_(a[1].columns()) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    // The sum has the weight's shape, which may have more dimensions: then it lies in one piece.
    TensorView sum = call.inputs[2];
    if (sum.type.shape.size() != 2) sum.row_stride = columns_;
    Epilogue e;
    set_result(call.outputs[0], sum, e);
    multiply(call, call.inputs[0], call.inputs[1], e, stream);
  }

  int64_t columns_;
};

}  // namespace

std::unique_ptr<Kernel> make_linear(const Arguments& a, CudaDevice& device) {
  return std::make_unique<LinearKernel>(a, device);
}

std::unique_ptr<Kernel> make_linear_input_gradient(const Arguments& a, CudaDevice& device) {
  return std::make_unique<LinearInputGradientKernel>(a, device);
}

std::unique_ptr<Kernel> make_linear_weight_gradient(const Arguments& a, CudaDevice& device) {
  return std::make_unique<LinearWeightGradientKernel>(a, device);
}

}  // namespace omni_id::cuda
