#pragma once

#include <vector>

#include "rendered/random.h"

namespace omni_id::rendered {

// Smooth noise in space: random values at the whole-numbered points, blended between them. One table for everything; who
// wants noise of its own looks elsewhere in it.
class Lattice {
 public:
  static const Lattice& shared() {
    static const Lattice lattice;
    return lattice;
  }

  // Between −1 and 1. `p` within ±2^20.
  float at(Vec3 p) const {
    const int x = floor_to_int(p.x), y = floor_to_int(p.y), z = floor_to_int(p.z);
    const float u = ease(p.x - static_cast<float>(x)), v = ease(p.y - static_cast<float>(y)),
                w = ease(p.z - static_cast<float>(z));
    const uint32_t x0 = static_cast<uint32_t>(x) * kX, x1 = x0 + kX, y0 = static_cast<uint32_t>(y) * kY, y1 = y0 + kY;
    const uint32_t z0 = static_cast<uint32_t>(z) * kZ, z1 = z0 + kZ;
    const auto edge = [&](uint32_t yz) { return mix(value(x0 ^ yz), value(x1 ^ yz), u); };
    return mix(mix(edge(y0 ^ z0), edge(y1 ^ z0), v), mix(edge(y0 ^ z1), edge(y1 ^ z1), v), w);
  }

 private:
  static constexpr uint32_t kX = 0x8DA6B343u, kY = 0xD8163841u, kZ = 0xCB1AB31Fu;
  static constexpr int kBits = 12;

  Lattice() : values_(size_t{1} << kBits) {
    Random random(0, 0, Stream::lattice);
    for (float& value : values_) value = random.between(-1, 1);
  }
  static float ease(float t) { return t * t * (3 - 2 * t); }
  float value(uint32_t hash) const { return values_[((hash * 0x9E3779B1u) >> (32 - kBits))]; }

  std::vector<float> values_;
};

}  // namespace omni_id::rendered
