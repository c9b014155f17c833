// Philox 4x32-10 against the known answers of Random123 (tests/kat_vectors).
#include "base/philox.h"

#include "test/check.h"

using namespace omni_id;
using test::check;

int main() {
  using Four = std::array<uint32_t, 4>;
  check(philox4x32({0, 0, 0, 0}, {0, 0}) == Four{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}, "zeros");
  const uint32_t ones = 0xffffffffu;
  check(philox4x32({ones, ones, ones, ones}, {ones, ones}) == Four{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}, "ones");
  check(philox4x32({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, {0xa4093822u, 0x299f31d0u}) ==
            Four{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u},
        "digits of pi");
  return test::finish();
}
