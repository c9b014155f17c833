// attention_gradient: dq, dk and dv of every sequence and head, see native/operators/attention_gradient.cpp for the formula and
// the shapes, cpu/kernels/attention_gradient.cpp for one head.
//
// Strategy: a task is one head of one sequence, which makes its scores again from logsumexp, and dq, dk and dv from them,
// without writing any down. Where whole heads would leave workers idle they are cut: some tasks make dq for some of the
// queries, others dk and dv for some of the keys, so that no sum is ever shared and none depends on the cut. Cost: 5 products
// of queries · keys · head_dim (10 flops · queries · keys · head_dim), 7 when cut; reads q, k, v, out and dout and writes dq,
// dk and dv once a task.
#include "cpu/operators/attention_tasks.h"
#include "cpu/operators/operators.h"

namespace omni_id::cpu {

namespace {

constexpr int64_t kLeastRows = 48;         // of a cut: below, packing would cost more than is won
constexpr int64_t kMostRowsFetched = 512;  // more would push what is in use out of the second-level cache

// One head of one sequence, or, cut, some of its keys for dk and dv or some of its queries for dq.
struct Task : HeadTask {
  bool wants_queries, wants_keys;

  // In products of queries × keys × head_dim: s and dp are made by both halves.
  int64_t cost() const { return queries * keys * (2 + (wants_queries ? 1 : 0) + (wants_keys ? 2 : 0)); }
};

class AttentionGradientKernel final : public Kernel {
 public:
  AttentionGradientKernel(const Arguments& a, CpuDevice& device) : device_(device), shape_(a, 1, 6) {}

  void run(const KernelCall& call) override {
    run_tasks(
        device_, plan(call), [](const Task& task) { return task.cost(); }, [&](const Task& task) { return bound(call, task); },
        device_.kernels().attention_gradient_scratch_bytes, device_.kernels().attention_gradient,
        [](AttentionGradient& one, AttentionGradient& next) {
          next.queries = std::min(next.queries, kMostRowsFetched);
          next.keys = std::min(next.keys, kMostRowsFetched);
          one.next = &next;
        });
  }

 private:
  std::vector<Task> plan(const KernelCall& call) const {
    // Whole heads take as many turns as the busiest worker has of them. Cut ones keep everyone busy, but make s and dp twice:
    // seven products for five.
    const int64_t whole = shape_.sequences * shape_.heads, threads = device_.threads();
    const bool cut = 7 * whole < 5 * threads * ((whole + threads - 1) / threads);
    const int64_t pieces = cut ? (threads + whole - 1) / whole : 1;
    std::vector<Task> tasks;
    for (const HeadTask& head : shape_.whole_heads(call, "attention_gradient")) {
      if (!cut) {
        tasks.push_back({head, true, true});
        continue;
      }
      const int64_t of_queries = std::max(kLeastRows, (head.queries + pieces - 1) / pieces);
      for (int64_t i = 0; i < head.queries; i += of_queries) {
        const HeadTask some{head.query + i, std::min(of_queries, head.queries - i), head.key, head.keys, head.head};
        tasks.push_back({some, true, false});
      }
      const int64_t of_keys = std::max(kLeastRows, (head.keys + pieces - 1) / pieces);
      for (int64_t i = 0; i < head.keys; i += of_keys) {
        const HeadTask some{head.query, head.queries, head.key + i, std::min(of_keys, head.keys - i), head.head};
        tasks.push_back({some, false, true});
      }
    }
    return tasks;
  }

  AttentionGradient bound(const KernelCall& call, const Task& task) const {
    const auto& in = call.inputs;
    const auto& out = call.outputs;
    const auto at = [&](const TensorView& view, int64_t row) { return shape_.at(view, row, task.head); };
    AttentionGradient one = head_of<AttentionGradient>(shape_, call, task);
    one.dout = at(in[0], task.query), one.dout_stride = in[0].row_stride;
    one.out = at(in[4], task.query), one.out_stride = in[4].row_stride;
    one.logsumexp_stride = in[5].row_stride;
    one.logsumexp = in[5].as<const float>() + task.query * one.logsumexp_stride + task.head;
    if (task.wants_queries) one.dq = at(out[0], task.query);
    if (task.wants_keys) one.dk = at(out[1], task.key), one.dv = at(out[2], task.key);
    one.dq_stride = out[0].row_stride;
    one.dk_stride = out[1].row_stride;
    one.dv_stride = out[2].row_stride;
    return one;
  }

  CpuDevice& device_;
  AttentionShape shape_;
};

}  // namespace

std::unique_ptr<Kernel> make_attention_gradient(const Arguments& a, CpuDevice& device) {
  return std::make_unique<AttentionGradientKernel>(a, device);
}

}  // namespace omni_id::cpu
