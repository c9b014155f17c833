// masked_l1 and its gradient, see native/operators/masked_l1.cpp for formulas and shapes, cpu/kernels/patches.cpp for one line.
//
// Strategy: a task is one row of patches of one image, and takes its lines of pixels one after the other. Its sum is kept in
// double precision, and those of all tasks are added in order: the loss depends neither on the cut nor on the threads. Cost:
// see the kernel.
#include "cpu/device.h"
#include "cpu/operators/operators.h"
#include "operators/patches.h"

namespace omni_id::cpu {

namespace {

class MaskedL1Lines : public Kernel {
 protected:
  MaskedL1Lines(const Arguments& a, CpuDevice& device)
      : device_(device), grid_(patch_grid(a[1].shape, a.integer("patch"), false, "masked_l1")) {}

  int64_t tasks() const { return grid_.images * grid_.rows(); }

  // Calls body(task, line), whose prediction and `out` are of the same elements, for the lines of every task in order.
  template <typename Body>
  void each_line(const KernelCall& call, const TensorView& out, const Body& body) const {
    const int64_t area = grid_.height * grid_.width, pixels = grid_.columns() * grid_.patch;
    const size_t line_bytes = static_cast<size_t>(pixels * grid_.channels) * sizeof(float);
    device_.reserve_scratch(2 * line_bytes);
    device_.pool().parallel_for(tasks(), [&](int64_t task, int worker) {
      const int64_t image = task / grid_.rows(), row = task % grid_.rows();
      float* target = reinterpret_cast<float*>(device_.scratch(worker));
      float* mask = target + pixels * grid_.channels;
      MaskedL1 line{};
      line.target = target;
      line.mask = mask;
      line.patches = grid_.columns();
      line.count = grid_.patch * grid_.channels;
      line.stride = call.inputs[0].row_stride;
      line.out_stride = out.row_stride;
      const int64_t first = image * grid_.patches() + row * grid_.columns();  // patch of the task
      for (int64_t y = 0; y < grid_.patch; ++y) {
        const int64_t pixel = (row * grid_.patch + y) * grid_.width;
        const float* planes = call.inputs[1].as<const float>() + image * grid_.channels * area + pixel;
        device_.kernels().interleave(planes, area, grid_.channels, pixels, target);
        device_.kernels().interleave(call.inputs[2].as<const float>() + image * area + pixel, 0, grid_.channels, pixels, mask);
        line.prediction = call.inputs[0].as<const float>() + first * line.stride + y * line.count;
        line.out = out.as<float>() + first * line.out_stride + y * line.count;
        body(task, line);
      }
    });
  }

  CpuDevice& device_;
  PatchGrid grid_;
};

class MaskedL1Kernel final : public MaskedL1Lines {
 public:
  MaskedL1Kernel(const Arguments& a, CpuDevice& device) : MaskedL1Lines(a, device) {}

  size_t workspace_bytes() const override { return static_cast<size_t>(tasks()) * sizeof(double); }

  void run(const KernelCall& call) override {
    double* sums = reinterpret_cast<double*>(call.workspace);
    for (int64_t task = 0; task < tasks(); ++task) sums[task] = 0.0;
    each_line(call, call.inputs[0], [&](int64_t task, const MaskedL1& line) {
      sums[task] += static_cast<double>(device_.kernels().masked_l1(&line));
    });
    double total = 0.0;
    for (int64_t task = 0; task < tasks(); ++task) total += sums[task];
    *call.outputs[0].as<float>() = static_cast<float>(total / *call.inputs[3].as<const float>());
  }
};

class MaskedL1GradientKernel final : public MaskedL1Lines {
 public:
  MaskedL1GradientKernel(const Arguments& a, CpuDevice& device) : MaskedL1Lines(a, device) {}

  void run(const KernelCall& call) override {
    const float scale = *call.inputs[4].as<const float>() / *call.inputs[3].as<const float>();
    each_line(call, call.outputs[0], [&](int64_t, MaskedL1& line) {
      line.scale = scale;
      device_.kernels().masked_l1_gradient(&line);
    });
  }
};

}  // namespace

std::unique_ptr<Kernel> make_masked_l1(const Arguments& a, CpuDevice& device) {
  return std::make_unique<MaskedL1Kernel>(a, device);
}
std::unique_ptr<Kernel> make_masked_l1_gradient(const Arguments& a, CpuDevice& device) {
  return std::make_unique<MaskedL1GradientKernel>(a, device);
}

}  // namespace omni_id::cpu
