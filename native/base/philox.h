#pragma once

#include <array>
#include <cstdint>

namespace omni_id {

// Philox 4x32-10, a counter-based generator: the numbers at a counter depend on nothing but (key, counter), so a seed
// gives the same stream on every device and for every number of threads.
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). Known answers: native/test/philox_test.cpp.
// answers.
inline std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

}  // namespace omni_id
