// gate_gradient, see native/operators/gate_gradient.cpp for formula and shapes.
//
// Strategy: a task is at most kRowsPerTask rows of one gate, with sums over them of its own, which lie in the workspace; those
// of a gate are added in order, so that they depend on its number of rows alone. Cost: dy and value are read and d is written
// once, 3 flops an element: bound by memory.
#include <algorithm>

#include "cpu/operators/matrix_product.h"
#include "cpu/operators/operators.h"
#include "operators/gates.h"

namespace omni_id::cpu {

namespace {

constexpr int64_t kRowsPerTask = 32;

class GateGradientKernel final : public Kernel {
 public:
  GateGradientKernel(const Arguments& a, CpuDevice& device)
      : device_(device),
        gates_(a[1].shape[0]),
        rows_(rows_per_gate(a[1], a[0].shape[0])),
        tasks_((rows_ + kRowsPerTask - 1) / kRowsPerTask),
        has_sums_(a.has(2)),
        one_{} {
    one_.dy_type = element(a[0].dtype);
    if (has_sums_) one_.value_type = element(a[2].dtype);
    one_.activation = activation_of(a.text("activation"));
    one_.d_type = element(dtype_named(a.text("output")));
    one_.columns = a[0].columns();
  }

  size_t workspace_bytes() const override {
    return has_sums_ ? static_cast<size_t>(gates_ * tasks_ * one_.columns) * sizeof(float) : 0;
  }

  void run(const KernelCall& call) override {
    const auto at = [](const TensorView& view, int64_t row) {
      return view.data ? view.data + row * view.row_stride * static_cast<int64_t>(size_of(view.type.dtype)) : nullptr;
    };
    const TensorView &dy = call.inputs[0], &gates = call.inputs[1], &value = call.inputs[2], &d = call.outputs[0];
    float* sums = reinterpret_cast<float*>(call.workspace);
    device_.parallel_for(gates_ * tasks_, [&](int64_t task) {
      const int64_t gate = task / tasks_, first = task % tasks_ * kRowsPerTask, row = gate * rows_ + first;
      GateGradient one = one_;
      one.dy = at(dy, row);
      one.dy_stride = dy.row_stride;
      one.gate = gates.as<const float>() + gate * gates.row_stride;
      one.value = at(value, row);
      one.value_stride = value.row_stride;
      one.d = at(d, row);
      one.d_stride = d.row_stride;
      one.rows = std::min(kRowsPerTask, rows_ - first);
      device_.kernels().gate_gradient(&one, has_sums_ ? sums + task * one.columns : nullptr);
    });
    if (!has_sums_) return;
    device_.parallel_for(gates_, [&](int64_t gate) {
      const TensorView& dgate = call.outputs[1];
      const ColumnSums total{sums + gate * tasks_ * one_.columns,        one_.columns, kF32, tasks_, nullptr,
                             dgate.as<float>() + gate * dgate.row_stride};
      device_.kernels().column_sums(&total, 0, one_.columns);
    });
  }

 private:
  CpuDevice& device_;
  int64_t gates_, rows_, tasks_;
  bool has_sums_;
  GateGradient one_;
};

}  // namespace

std::unique_ptr<Kernel> make_gate_gradient(const Arguments& a, CpuDevice& device) {
  return std::make_unique<GateGradientKernel>(a, device);
}

}  // namespace omni_id::cpu
