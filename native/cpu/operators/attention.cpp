#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/device.h"
#include "cpu/operators/operators.h"
#include "graph/offsets.h"

namespace omni_id::cpu {

namespace {

// Queries of one task: bounds the accumulator in scratch. A multiple of every tile height.
constexpr int64_t kQueriesPerTask = 264;
constexpr int64_t kLeastQueries = 48;
constexpr int64_t kMostKeysFetched = 512;  // more would push what is in use out of the second-level cache

// One head of one sequence, or some of its queries. Splitting queries packs the keys once more each, so it is done only
// when there are too few sequences and heads to keep the workers busy.
struct Task {
  int64_t query, queries, key, keys, head;
};

class AttentionKernel final : public Kernel {
 public:
  AttentionKernel(const Arguments& a, CpuDevice& device)
      : device_(device),
        query_tokens_(a[0].shape[0]),
        key_tokens_(a[1].shape[0]),
        heads_(a.integer("heads")),
        sequences_(a.integer("sequences")),
        element_(static_cast<int64_t>(size_of(a[0].dtype))),
        attention_{} {
    attention_.head_dim = a[0].columns() / heads_;
    attention_.type = a[0].dtype == DType::bf16 ? kBf16 : kF32;
    const double scale = a.number("scale");
    attention_.scale = static_cast<float>(scale > 0 ? scale : 1.0 / std::sqrt(static_cast<double>(attention_.head_dim)));
  }

  void run(const KernelCall& call) override {
    const std::vector<Task> tasks = plan(call);
    const KernelTable& kernels = device_.kernels();
    size_t scratch_bytes = 0;
    for (const Task& task : tasks) {
      const Attention one = bound(call, task);
      scratch_bytes = std::max(scratch_bytes, kernels.attention_scratch_bytes(&one));
    }
    device_.reserve_scratch(scratch_bytes);
    device_.pool().parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i, int worker) {
      Attention one = bound(call, tasks[static_cast<size_t>(i)]);
      // Tasks are handed out in order, so that a worker's next one is most often as many further on as there are workers.
      if (const size_t next = static_cast<size_t>(i + device_.threads()); next < tasks.size()) {
        const Attention other = bound(call, tasks[next]);
        one.next_q = other.q;
        one.next_queries = other.queries;
        one.next_k = other.k;
        one.next_v = other.v;
        one.next_keys = std::min(other.keys, kMostKeysFetched);
      }
      kernels.attention(&one, device_.scratch(worker));
    });
  }

 private:
  std::vector<Task> plan(const KernelCall& call) const {
    const int32_t *query_offsets = call.inputs[3].as<const int32_t>(), *key_offsets = call.inputs[4].as<const int32_t>();
    if (query_offsets) {
      check_offsets("attention", "query_offsets", query_offsets, sequences_, query_tokens_);
      check_offsets("attention", "key_offsets", key_offsets, sequences_, key_tokens_);
    }
    const auto at = [this](const int32_t* offsets, int64_t s, int64_t tokens) {
      return offsets ? int64_t{offsets[s]} : s * (tokens / sequences_);
    };
    int64_t queries_per_task = kQueriesPerTask;
    while (sequences_ * heads_ * std::max<int64_t>(1, query_tokens_ / sequences_ / queries_per_task) < 2 * device_.threads() &&
           queries_per_task > kLeastQueries) {
      queries_per_task -= kLeastQueries - 12;
    }
    std::vector<Task> tasks;
    for (int64_t s = 0; s < sequences_; ++s) {
      const int64_t key = at(key_offsets, s, key_tokens_), keys = at(key_offsets, s + 1, key_tokens_) - key;
      const int64_t end = at(query_offsets, s + 1, query_tokens_);
      for (int64_t head = 0; head < heads_; ++head) {
        for (int64_t query = at(query_offsets, s, query_tokens_); query < end; query += queries_per_task) {
          tasks.push_back({query, std::min(queries_per_task, end - query), key, keys, head});
        }
      }
    }
    // Longest first, so that no worker starts the largest piece of a ragged batch when the others are done.
    std::stable_sort(tasks.begin(), tasks.end(),
                     [](const Task& a, const Task& b) { return a.queries * a.keys > b.queries * b.keys; });
    return tasks;
  }

  Attention bound(const KernelCall& call, const Task& task) const {
    const int64_t column = task.head * attention_.head_dim;
    const auto address = [&](const TensorView& view, int64_t row) {
      return view.data + (row * view.row_stride + column) * element_;
    };
    Attention one = attention_;
    one.q = address(call.inputs[0], task.query);
    one.k = address(call.inputs[1], task.key);
    one.v = address(call.inputs[2], task.key);
    one.out = address(call.outputs[0], task.query);
    one.q_stride = call.inputs[0].row_stride;
    one.k_stride = call.inputs[1].row_stride;
    one.v_stride = call.inputs[2].row_stride;
    one.out_stride = call.outputs[0].row_stride;
    if (call.outputs.size() > 1) {
      one.logsumexp_stride = call.outputs[1].row_stride;
      one.logsumexp = call.outputs[1].as<float>() + task.query * one.logsumexp_stride + task.head;
    }
    one.queries = task.queries;
    one.keys = task.keys;
    return one;
  }

  CpuDevice& device_;
  int64_t query_tokens_, key_tokens_, heads_, sequences_, element_;
  Attention attention_;
};

}  // namespace

std::unique_ptr<Kernel> make_attention(const Arguments& a, CpuDevice& device) {
  return std::make_unique<AttentionKernel>(a, device);
}

}  // namespace omni_id::cpu
