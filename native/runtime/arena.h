#pragma once

#include <cstddef>
#include <vector>

namespace omni_id {

// A block of memory that is needed from node `first` to node `last`, both included.
struct Lifetime {
  size_t bytes = 0;
  int first = 0, last = 0;
};

struct ArenaLayout {
  std::vector<size_t> offsets;  // of each block, multiples of 64
  size_t bytes = 0;             // of the whole arena: the plan's peak
};

// Places blocks so that two overlap in memory only when they never live at the same time: largest first, each into the
// smallest gap that fits among the already placed blocks of its lifetime ("greedy by size", Pisarchyk and Lee 2020).
ArenaLayout place(const std::vector<Lifetime>& blocks);

}  // namespace omni_id
