#pragma once

#include "base/philox.h"
#include "rendered/exact.h"

namespace omni_id::rendered {

// What a stream of random numbers is for. Streams are independent: that a person's shape is drawn differently leaves the
// colouring as it is.
enum class Stream : uint32_t {
  shape = 1,
  colouring = 2,
  pose = 3,
  expression = 4,
  light = 5,
  surroundings = 6,
  noise = 7,
  lattice = 8
};

// Random numbers keyed by (seed, number, stream): Philox, counting blocks.
class Random {
 public:
  Random(uint64_t seed, uint64_t number, Stream stream)
      : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        counter_{0, static_cast<uint32_t>(stream), static_cast<uint32_t>(number), static_cast<uint32_t>(number >> 32)} {}

  uint32_t bits() {
    if (used_ == 4) {
      block_ = philox4x32(counter_, key_);
      ++counter_[0];
      used_ = 0;
    }
    return block_[used_++];
  }
  float uniform() { return static_cast<float>(bits() >> 8) * 0x1p-24f; }  // [0, 1)
  float between(float low, float high) { return low + (high - low) * uniform(); }
  bool chance(float probability) { return uniform() < probability; }
  int below(int n) { return static_cast<int>((uint64_t{bits()} * static_cast<uint32_t>(n)) >> 32); }
  Vec3 vector(float low, float high) {
    const float x = between(low, high), y = between(low, high);
    return {x, y, between(low, high)};
  }
  // Normal to within what a sum of twelve uniform numbers is, so between −6 and 6: needs no logarithm, and is exact.
  float normal() {
    uint64_t sum = 0;
    for (int i = 0; i < 12; ++i) sum += bits();
    return static_cast<float>(static_cast<double>(static_cast<int64_t>(sum) - 12 * (int64_t{1} << 31)) * 0x1p-32);
  }
  float normal(float deviation, float most) { return clamp(deviation * normal(), -most, most); }

 private:
  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 4> counter_, block_{};
  int used_ = 4;
};

}  // namespace omni_id::rendered
