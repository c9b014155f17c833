#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/operators/matrix_product.h"
#include "graph/offsets.h"

// What attention and its gradient share: sequences and heads, which are cut into tasks, and how workers take them.
namespace omni_id::cpu {

// Some queries and keys of one head of one sequence.
struct HeadTask {
  int64_t query, queries, key, keys, head;
};

struct AttentionShape {
  // Where q, k and v stand among the operator's inputs, one behind the other, and so its two offsets.
  const size_t first, offsets;
  const int64_t queries, keys, heads, sequences, head_dim;
  const float scale;

  AttentionShape(const Arguments& a, size_t q, size_t query_offsets)
      : first(q),
        offsets(query_offsets),
        queries(a[q].shape[0]),
        keys(a[q + 1].shape[0]),
        heads(a.integer("heads")),
        sequences(a.integer("sequences")),
        head_dim(a[q].columns() / heads),
        scale(static_cast<float>(a.number("scale") > 0 ? a.number("scale") : 1.0 / std::sqrt(static_cast<double>(head_dim)))) {}

  // All queries and keys of every head of every sequence. Throws ERR_INVALID_ARGUMENT, `op`: …, unless the offsets are good.
  std::vector<HeadTask> whole_heads(const KernelCall& call, const char* op) const {
    const int32_t* of_queries = call.inputs[offsets].as<const int32_t>();
    const int32_t* of_keys = call.inputs[offsets + 1].as<const int32_t>();
    if (of_queries) {
      check_offsets(op, "query_offsets", of_queries, sequences, queries);
      check_offsets(op, "key_offsets", of_keys, sequences, keys);
    }
    const auto at = [this](const int32_t* given, int64_t s, int64_t tokens) {
      return given ? int64_t{given[s]} : s * (tokens / sequences);
    };
    std::vector<HeadTask> tasks;
    for (int64_t s = 0; s < sequences; ++s) {
      const int64_t query = at(of_queries, s, queries), key = at(of_keys, s, keys);
      const int64_t query_end = at(of_queries, s + 1, queries), key_end = at(of_keys, s + 1, keys);
      for (int64_t head = 0; head < heads; ++head) tasks.push_back({query, query_end - query, key, key_end - key, head});
    }
    return tasks;
  }

  // Where a head's columns of a row begin.
  std::byte* at(const TensorView& view, int64_t row, int64_t head) const {
    return view.data + (row * view.row_stride + head * head_dim) * static_cast<int64_t>(size_of(view.type.dtype));
  }
};

// The fields that one head of attention and one of its gradient have in common, for `task`.
template <typename One>
One head_of(const AttentionShape& shape, const KernelCall& call, const HeadTask& task) {
  const TensorView &q = call.inputs[shape.first], &k = call.inputs[shape.first + 1], &v = call.inputs[shape.first + 2];
  One one{};
  one.q = shape.at(q, task.query, task.head), one.q_stride = q.row_stride;
  one.k = shape.at(k, task.key, task.head), one.k_stride = k.row_stride;
  one.v = shape.at(v, task.key, task.head), one.v_stride = v.row_stride;
  one.queries = task.queries;
  one.keys = task.keys;
  one.head_dim = shape.head_dim;
  one.scale = shape.scale;
  one.type = element(q.type.dtype);
  return one;
}

// Runs tasks, the costly ones first, so that no worker starts the largest piece of a ragged batch when the others are done.
// bound(task) is what the kernel takes; `follow` tells it what the same worker is likely to be given next: tasks are handed out
// in order, so that it is most often as many further on as there are workers.
template <typename Task, typename Cost, typename Bound, typename One, typename Follow>
void run_tasks(CpuDevice& device, std::vector<Task> tasks, const Cost& cost, const Bound& bound,
               size_t (*scratch_bytes)(const One*), void (*run)(const One*, void*), const Follow& follow) {
  std::stable_sort(tasks.begin(), tasks.end(), [&](const Task& a, const Task& b) { return cost(a) > cost(b); });
  size_t bytes = 0;
  for (const Task& task : tasks) {
    const One one = bound(task);
    bytes = std::max(bytes, scratch_bytes(&one));
  }
  device.reserve_scratch(bytes);
  device.pool().parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i, int worker) {
    One one = bound(tasks[static_cast<size_t>(i)]), next;
    if (const size_t other = static_cast<size_t>(i + device.threads()); other < tasks.size()) {
      next = bound(tasks[other]);
      follow(one, next);
    }
    run(&one, device.scratch(worker));
  });
}

}  // namespace omni_id::cpu
