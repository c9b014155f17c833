// attention_gradient: dq, dk and dv of every sequence and head, see native/operators/attention_gradient.cpp for the formula and
// the shapes, cpu/kernels/attention_gradient.cpp for one head.
//
// Strategy: a task is one head of one sequence, which makes its scores again from logsumexp, and dq, dk and dv from them,
// without writing any down. Where whole heads would leave workers idle they are cut: some tasks make dq for some of the
// queries, others dk and dv for some of the keys, so that no sum is ever shared and none depends on the cut. Cost: 5 products
// of queries · keys · head_dim (10 flops · queries · keys · head_dim), 7 when cut; reads q, k, v, out and dout and writes dq,
// dk and dv once a task.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/device.h"
#include "cpu/operators/operators.h"
#include "graph/offsets.h"

namespace omni_id::cpu {

namespace {

constexpr int64_t kLeastRows = 48;         // of a cut: below, packing would cost more than is won
constexpr int64_t kMostRowsFetched = 512;  // more would push what is in use out of the second-level cache

// One head of one sequence, or, cut, some of its keys for dk and dv or some of its queries for dq.
struct Task {
  int64_t query, queries, key, keys, head;
  bool wants_queries, wants_keys;

  // In products of queries × keys × head_dim: s and dp are made by both halves.
  int64_t cost() const { return queries * keys * (2 + (wants_queries ? 1 : 0) + (wants_keys ? 2 : 0)); }
};

class AttentionGradientKernel final : public Kernel {
 public:
  AttentionGradientKernel(const Arguments& a, CpuDevice& device)
      : device_(device),
        query_tokens_(a[1].shape[0]),
        key_tokens_(a[2].shape[0]),
        heads_(a.integer("heads")),
        sequences_(a.integer("sequences")),
        element_(static_cast<int64_t>(size_of(a[0].dtype))),
        gradient_{} {
    gradient_.head_dim = a[1].columns() / heads_;
    gradient_.type = a[0].dtype == DType::bf16 ? kBf16 : kF32;
    const double scale = a.number("scale");
    gradient_.scale = static_cast<float>(scale > 0 ? scale : 1.0 / std::sqrt(static_cast<double>(gradient_.head_dim)));
  }

  void run(const KernelCall& call) override {
    const std::vector<Task> tasks = plan(call);
    const KernelTable& kernels = device_.kernels();
    size_t scratch_bytes = 0;
    for (const Task& task : tasks) {
      const AttentionGradient one = bound(call, task);
      scratch_bytes = std::max(scratch_bytes, kernels.attention_gradient_scratch_bytes(&one));
    }
    device_.reserve_scratch(scratch_bytes);
    device_.pool().parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i, int worker) {
      AttentionGradient one = bound(call, tasks[static_cast<size_t>(i)]), other;
      // Tasks are handed out in order, so that a worker's next one is most often as many further on as there are workers.
      if (const size_t next = static_cast<size_t>(i + device_.threads()); next < tasks.size()) {
        other = bound(call, tasks[next]);
        other.queries = std::min(other.queries, kMostRowsFetched);
        other.keys = std::min(other.keys, kMostRowsFetched);
        one.next = &other;
      }
      kernels.attention_gradient(&one, device_.scratch(worker));
    });
  }

 private:
  std::vector<Task> plan(const KernelCall& call) const {
    const int32_t *query_offsets = call.inputs[6].as<const int32_t>(), *key_offsets = call.inputs[7].as<const int32_t>();
    if (query_offsets) {
      check_offsets("attention_gradient", "query_offsets", query_offsets, sequences_, query_tokens_);
      check_offsets("attention_gradient", "key_offsets", key_offsets, sequences_, key_tokens_);
    }
    const auto at = [this](const int32_t* offsets, int64_t s, int64_t tokens) {
      return offsets ? int64_t{offsets[s]} : s * (tokens / sequences_);
    };
    // Whole heads take as many turns as the busiest worker has of them. Cut ones keep everyone busy, but make s and dp twice:
    // seven products for five.
    const int64_t whole = sequences_ * heads_, threads = device_.threads();
    const bool cut = 7 * whole < 5 * threads * ((whole + threads - 1) / threads);
    const int64_t pieces = cut ? (threads + whole - 1) / whole : 1;
    std::vector<Task> tasks;
    for (int64_t s = 0; s < sequences_; ++s) {
      const int64_t query = at(query_offsets, s, query_tokens_), queries = at(query_offsets, s + 1, query_tokens_) - query;
      const int64_t key = at(key_offsets, s, key_tokens_), keys = at(key_offsets, s + 1, key_tokens_) - key;
      for (int64_t head = 0; head < heads_; ++head) {
        if (!cut) {
          tasks.push_back({query, queries, key, keys, head, true, true});
          continue;
        }
        const int64_t of_queries = std::max(kLeastRows, (queries + pieces - 1) / pieces);
        for (int64_t i = 0; i < queries; i += of_queries) {
          tasks.push_back({query + i, std::min(of_queries, queries - i), key, keys, head, true, false});
        }
        const int64_t of_keys = std::max(kLeastRows, (keys + pieces - 1) / pieces);
        for (int64_t i = 0; i < keys; i += of_keys) {
          tasks.push_back({query, queries, key + i, std::min(of_keys, keys - i), head, false, true});
        }
      }
    }
    // Longest first, so that no worker starts the largest piece of a ragged batch when the others are done.
    std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) { return a.cost() > b.cost(); });
    return tasks;
  }

  AttentionGradient bound(const KernelCall& call, const Task& task) const {
    const int64_t column = task.head * gradient_.head_dim;
    const auto address = [&](const TensorView& view, int64_t row) {
      return view.data + (row * view.row_stride + column) * element_;
    };
    const auto& in = call.inputs;
    const auto& out = call.outputs;
    AttentionGradient one = gradient_;
    one.dout = address(in[0], task.query), one.dout_stride = in[0].row_stride;
    one.q = address(in[1], task.query), one.q_stride = in[1].row_stride;
    one.k = address(in[2], task.key), one.k_stride = in[2].row_stride;
    one.v = address(in[3], task.key), one.v_stride = in[3].row_stride;
    one.out = address(in[4], task.query), one.out_stride = in[4].row_stride;
    one.logsumexp_stride = in[5].row_stride;
    one.logsumexp = in[5].as<const float>() + task.query * one.logsumexp_stride + task.head;
    if (task.wants_queries) one.dq = address(out[0], task.query);
    if (task.wants_keys) one.dk = address(out[1], task.key), one.dv = address(out[2], task.key);
    one.dq_stride = out[0].row_stride;
    one.dk_stride = out[1].row_stride;
    one.dv_stride = out[2].row_stride;
    one.queries = task.queries;
    one.keys = task.keys;
    return one;
  }

  CpuDevice& device_;
  int64_t query_tokens_, key_tokens_, heads_, sequences_, element_;
  AttentionGradient gradient_;
};

}  // namespace

std::unique_ptr<Kernel> make_attention_gradient(const Arguments& a, CpuDevice& device) {
  return std::make_unique<AttentionGradientKernel>(a, device);
}

}  // namespace omni_id::cpu
