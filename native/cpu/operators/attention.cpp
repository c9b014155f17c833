// attention, see native/operators/attention.cpp for the formula and the shapes, cpu/kernels/attention.cpp for one head.
//
// Strategy: a task is one head of one sequence, or some of its queries. Splitting queries packs the keys once more each, so it
// is done only to bound the scratch, and finer when there are too few sequences and heads to keep the workers busy. Cost: 4
// flops · queries · keys · head_dim; reads q, k and v and writes the result once a task.
#include "cpu/operators/attention_tasks.h"
#include "cpu/operators/operators.h"

namespace omni_id::cpu {

namespace {

// Queries of one task: bounds the accumulator in scratch. A multiple of every tile height.
constexpr int64_t kQueriesPerTask = 264;
constexpr int64_t kLeastQueries = 48;
constexpr int64_t kMostKeysFetched = 512;  // more would push what is in use out of the second-level cache

class AttentionKernel final : public Kernel {
 public:
  AttentionKernel(const Arguments& a, CpuDevice& device) : device_(device), shape_(a, 0, 3) {}

  void run(const KernelCall& call) override {
    run_tasks(
        device_, plan(call), [](const HeadTask& task) { return task.queries * task.keys; },
        [&](const HeadTask& task) { return bound(call, task); }, device_.kernels().attention_scratch_bytes,
        device_.kernels().attention,
        [](Attention& one, const Attention& next) {
          one.next_q = next.q;
          one.next_queries = next.queries;
          one.next_k = next.k;
          one.next_v = next.v;
          one.next_keys = std::min(next.keys, kMostKeysFetched);
        });
  }

 private:
  std::vector<HeadTask> plan(const KernelCall& call) const {
    const int64_t heads = shape_.sequences * shape_.heads, queries = shape_.queries / shape_.sequences;
    int64_t queries_per_task = kQueriesPerTask;
    while (heads * std::max<int64_t>(1, queries / queries_per_task) < 2 * device_.threads() &&
           queries_per_task > kLeastQueries) {
      queries_per_task -= kLeastQueries - 12;
    }
    std::vector<HeadTask> tasks;
    for (HeadTask task : shape_.whole_heads(call, "attention")) {
      const int64_t end = task.query + task.queries;
      for (; task.query < end; task.query += queries_per_task) {
        task.queries = std::min(queries_per_task, end - task.query);
        tasks.push_back(task);
      }
    }
    return tasks;
  }

  Attention bound(const KernelCall& call, const HeadTask& task) const {
    const auto& out = call.outputs;
    Attention one = head_of<Attention>(shape_, call, task);
    one.out = shape_.at(out[0], task.query, task.head), one.out_stride = out[0].row_stride;
    if (out.size() > 1) {
      one.logsumexp_stride = out[1].row_stride;
      one.logsumexp = out[1].as<float>() + task.query * one.logsumexp_stride + task.head;
    }
    return one;
  }

  CpuDevice& device_;
  AttentionShape shape_;
};

}  // namespace

std::unique_ptr<Kernel> make_attention(const Arguments& a, CpuDevice& device) {
  return std::make_unique<AttentionKernel>(a, device);
}

}  // namespace omni_id::cpu
