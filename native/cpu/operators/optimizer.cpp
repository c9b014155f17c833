// gradient_norm and adamw over one vector of all parameters, [count] floats; formulas: native/operators/optimizer.cpp.
//
// Strategy: the vector is cut into tasks of kElementsPerTask elements (256 KiB of one of the five inputs, so that a task's end
// costs nothing), of one segment each, since rates and decays belong to segments. The norm's tasks are cut in the same way and
// their sums added in order, in double precision, so that it does not depend on the number of threads. Whether the norm is
// finite is looked at before anything is written. Cost: the norm reads 4 bytes a parameter; AdamW reads 16 and writes 12, or 20
// and 16 with an average, for about 16 flops. Both are bound by memory.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/device.h"
#include "cpu/operators/operators.h"
#include "graph/offsets.h"

namespace omni_id::cpu {

namespace {

constexpr int64_t kElementsPerTask = 65536;

struct Task {
  int64_t segment, first, count;
};

// Adds tasks of at most kElementsPerTask that cover [first, end).
void cut(int64_t segment, int64_t first, int64_t end, std::vector<Task>& tasks) {
  for (; first < end; first += kElementsPerTask) tasks.push_back({segment, first, std::min(kElementsPerTask, end - first)});
}

// Sums of chunks, cut anew at the first segment that counts after one that does not, and added in order: the norm depends on
// the gradients and on what counts alone.
class GradientNorm final : public Kernel {
 public:
  GradientNorm(const Arguments& a, CpuDevice& device)
      : device_(device), count_(a[0].elements()), segments_(a.has(1) ? a[2].elements() : 0) {}

  void run(const KernelCall& call) override {
    const float *gradients = call.inputs[0].as<const float>(), *counted = call.inputs[2].as<const float>();
    const int32_t* segments = call.inputs[1].as<const int32_t>();
    std::vector<Task> tasks;
    if (segments) {
      check_offsets("gradient_norm", "segments", segments, segments_, count_);
      for (int64_t s = 0; s < segments_; ++s) {
        const int64_t first = s;
        while (s < segments_ && counted[s] != 0.0f) ++s;
        cut(first, segments[first], segments[s], tasks);
      }
    } else {
      cut(0, 0, count_, tasks);
    }
    std::vector<double> sums(tasks.size());
    device_.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
      const Task& task = tasks[static_cast<size_t>(i)];
      sums[static_cast<size_t>(i)] = device_.kernels().sum_of_squares(gradients + task.first, task.count);
    });
    double total = 0.0;
    for (const double sum : sums) total += sum;
    *call.outputs[0].as<float>() = static_cast<float>(std::sqrt(total));
  }

 private:
  CpuDevice& device_;
  int64_t count_, segments_;
};

class AdamWKernel final : public Kernel {
 public:
  AdamWKernel(const Arguments& a, CpuDevice& device)
      : device_(device),
        count_(a[0].elements()),
        segments_(a[7].elements()),
        beta1_(a.number("beta1")),
        beta2_(a.number("beta2")),
        epsilon_(static_cast<float>(a.number("epsilon"))) {}

  void run(const KernelCall& call) override {
    const auto input = [&](size_t i) { return call.inputs[i].as<const float>(); };
    const auto output = [&](size_t i) { return i < call.outputs.size() ? call.outputs[i].as<float>() : nullptr; };
    const int32_t* segments = call.inputs[6].as<const int32_t>();
    check_offsets("adamw", "segments", segments, segments_, count_);
    const float norm = *input(4), *settings = input(5);
    if (!std::isfinite(norm)) {
      keep(call);
      return;
    }
    AdamW all{};
    all.clip = settings[3] > 0.0f ? std::min(1.0f, settings[3] / (norm + 1e-6f)) : 1.0f;
    all.beta1 = static_cast<float>(beta1_);
    all.rest1 = static_cast<float>(1.0 - beta1_);
    all.beta2 = static_cast<float>(beta2_);
    all.rest2 = static_cast<float>(1.0 - beta2_);
    all.epsilon = epsilon_;
    all.root_of_c2 = std::sqrt(settings[2]);
    all.follow = 1.0f - settings[4];
    std::vector<Task> tasks;
    for (int64_t s = 0; s < segments_; ++s) cut(s, segments[s], segments[s + 1], tasks);
    device_.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
      const auto& [segment, first, count] = tasks[static_cast<size_t>(i)];
      AdamW one = all;
      const float rate = settings[0] * input(7)[segment];
      one.kept = 1.0f - rate * input(8)[segment];
      one.step = rate / settings[1];
      one.count = count;
      one.values = input(0) + first;
      one.gradients = input(1) + first;
      one.first = input(2) + first;
      one.second = input(3) + first;
      one.average = input(9) ? input(9) + first : nullptr;
      one.values_out = output(0) + first;
      one.first_out = output(1) + first;
      one.second_out = output(2) + first;
      one.average_out = output(3) ? output(3) + first : nullptr;
      device_.kernels().adamw(&one);
    });
  }

 private:
  void keep(const KernelCall& call) const {
    const size_t pairs[][2] = {{0, 0}, {2, 1}, {3, 2}, {9, 3}};
    for (const auto& [from, to] : pairs) {
      if (to >= call.outputs.size() || call.outputs[to].data == call.inputs[from].data) continue;
      copy_bytes(call.outputs[to].data, call.inputs[from].data, static_cast<size_t>(count_) * sizeof(float));
    }
  }

  CpuDevice& device_;
  int64_t count_, segments_;
  double beta1_, beta2_;
  float epsilon_;
};

}  // namespace

std::unique_ptr<Kernel> make_gradient_norm(const Arguments& a, CpuDevice& device) {
  return std::make_unique<GradientNorm>(a, device);
}

std::unique_ptr<Kernel> make_adamw(const Arguments& a, CpuDevice& device) { return std::make_unique<AdamWKernel>(a, device); }

}  // namespace omni_id::cpu
