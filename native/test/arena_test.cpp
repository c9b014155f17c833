// Properties of the arena's layout over random lifetimes: blocks that live at once never overlap, offsets are aligned, the
// arena is neither smaller than what lives at once nor larger than all blocks behind each other.
#include "runtime/arena.h"

#include <algorithm>
#include <random>

#include "test/check.h"

using namespace omni_id;
using test::check;

namespace {

size_t rounded(size_t bytes) { return (bytes + 63) / 64 * 64; }

bool live_at_once(const Lifetime& a, const Lifetime& b) { return a.first <= b.last && b.first <= a.last; }

void test_layout(const std::vector<Lifetime>& blocks, int nodes, const std::string& what) {
  const ArenaLayout layout = place(blocks);
  check(layout.offsets.size() == blocks.size(), what + ": a place for every block");
  size_t sum = 0, end = 0;
  bool aligned = true, apart = true;
  for (size_t i = 0; i < blocks.size(); ++i) {
    sum += rounded(blocks[i].bytes);
    end = std::max(end, layout.offsets[i] + blocks[i].bytes);
    aligned = aligned && layout.offsets[i] % 64 == 0;
    for (size_t j = 0; j < i; ++j) {
      const bool overlap =
          layout.offsets[i] < layout.offsets[j] + blocks[j].bytes && layout.offsets[j] < layout.offsets[i] + blocks[i].bytes;
      apart = apart && !(overlap && live_at_once(blocks[i], blocks[j]));
    }
  }
  size_t most = 0;
  for (int node = 0; node < nodes; ++node) {
    size_t living = 0;
    for (const Lifetime& block : blocks) living += block.first <= node && node <= block.last ? rounded(block.bytes) : 0;
    most = std::max(most, living);
  }
  check(aligned, what + ": offsets are multiples of 64");
  check(apart, what + ": what lives at once does not overlap");
  check(end <= layout.bytes, what + ": every block lies inside");
  check(most <= layout.bytes && layout.bytes <= sum, what + ": " + std::to_string(layout.bytes) + " bytes, at least " +
                                                         std::to_string(most) + ", at most " + std::to_string(sum));
}

void test_random_lifetimes() {
  std::mt19937 random(1);
  const auto below = [&](int n) { return std::uniform_int_distribution<int>(0, n - 1)(random); };
  for (int round = 0; round < 400; ++round) {
    const int nodes = 1 + below(30), count = below(60), longest = 1 + below(nodes);
    // Few sizes make ties and exact fits; empty blocks occur too.
    const int largest = round % 2 ? 5 : 100000;
    std::vector<Lifetime> blocks;
    for (int i = 0; i < count; ++i) {
      const int first = below(nodes);
      blocks.push_back(
          {static_cast<size_t>(below(largest)) * (round % 2 ? 64 : 1), first, std::min(nodes - 1, first + below(longest))});
    }
    test_layout(blocks, nodes, "round " + std::to_string(round));
  }
}

// What never lives together shares its memory: the largest block is all there is.
void test_disjoint_lifetimes() {
  std::mt19937 random(2);
  for (int round = 0; round < 50; ++round) {
    std::vector<Lifetime> blocks;
    size_t largest = 0;
    for (int node = 0; node < 40; ++node) {
      const size_t bytes = std::uniform_int_distribution<size_t>(0, 5000)(random);
      largest = std::max(largest, rounded(bytes));
      blocks.push_back({bytes, 2 * node, 2 * node + 1});
    }
    std::shuffle(blocks.begin(), blocks.end(), random);
    check(place(blocks).bytes == largest, "disjoint lifetimes take the memory of the largest block");
  }
}

}  // namespace

int main() {
  check(place({}).bytes == 0, "no blocks take no memory");
  test_random_lifetimes();
  test_disjoint_lifetimes();
  // A gap exactly as large as the block is used: 64 between two that live on.
  check(place({{256, 0, 9}, {192, 0, 1}, {128, 2, 9}, {64, 2, 9}}).bytes == 448, "a gap is filled");
  return test::finish();
}
