#include "runtime/arena.h"

#include <algorithm>
#include <cstdint>
#include <numeric>

namespace omni_id {

ArenaLayout place(const std::vector<Lifetime>& blocks) {
  const auto rounded = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
  std::vector<size_t> order(blocks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return blocks[a].bytes > blocks[b].bytes; });

  ArenaLayout layout{std::vector<size_t>(blocks.size(), 0), 0};
  std::vector<size_t> placed;  // by offset
  for (size_t block : order) {
    const size_t bytes = rounded(blocks[block].bytes);
    size_t end = 0, best = SIZE_MAX, best_gap = SIZE_MAX;
    for (size_t other : placed) {
      if (blocks[other].last < blocks[block].first || blocks[block].last < blocks[other].first) continue;
      const size_t start = layout.offsets[other];
      if (start >= end && start - end >= bytes && start - end < best_gap) {
        best = end;
        best_gap = start - end;
      }
      end = std::max(end, start + rounded(blocks[other].bytes));
    }
    layout.offsets[block] = best == SIZE_MAX ? end : best;
    layout.bytes = std::max(layout.bytes, layout.offsets[block] + bytes);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), block,
                                   [&](size_t a, size_t b) { return layout.offsets[a] < layout.offsets[b]; }),
                  block);
  }
  return layout;
}

}  // namespace omni_id
