// bfloat16 and half precision over all of their 65536 values: to f32 by their definition, back without a change, and every
// number between two neighbours to the nearer one, ties to the even one.
#include "base/float_formats.h"

#include <cmath>
#include <limits>
#include <string>

#include "test/check.h"

using namespace omni_id;
using test::check;

namespace {

struct Format {
  const char* name;
  int exponent_bits, mantissa_bits;
  float (*to_float)(uint16_t);
  uint16_t (*from_float)(float);

  uint32_t infinity() const { return ((1u << exponent_bits) - 1u) << mantissa_bits; }
};

// What IEEE 754 says of the bits, in double.
double value_of(const Format& f, uint32_t bits) {
  const int bias = (1 << (f.exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits & 0x7fffu) >> f.mantissa_bits;
  const double mantissa = bits & ((1u << f.mantissa_bits) - 1u), sign = bits & 0x8000u ? -1.0 : 1.0;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - f.mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << f.mantissa_bits), exponent - bias - f.mantissa_bits);
}

void test_format(const Format& f) {
  int64_t wrong_value = 0, wrong_return = 0, wrong_rounding = 0, wrong_nan = 0;
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const float x = f.to_float(static_cast<uint16_t>(bits));
    const uint32_t magnitude = bits & 0x7fffu, sign = bits & 0x8000u;
    if (magnitude > f.infinity()) {
      const uint16_t back = f.from_float(x);
      wrong_nan += !std::isnan(x) || (back & 0x7fffu) <= f.infinity() || (back & 0x8000u) != sign;
      continue;
    }
    const bool infinite = magnitude == f.infinity();
    wrong_value += infinite ? !std::isinf(x) : x != value_of(f, bits);
    wrong_value += std::signbit(x) != (sign != 0);
    wrong_return += f.from_float(x) != bits;
    if (infinite) continue;
    // Half the way to the next number outwards; behind the largest stands what would follow it: from there on it is infinity.
    const double next = magnitude + 1 == f.infinity() ? 2 * value_of(f, bits) - value_of(f, bits - 1) : value_of(f, bits + 1);
    const auto middle = static_cast<float>((value_of(f, bits) + next) / 2);
    const float outwards = sign ? -std::numeric_limits<float>::infinity() : std::numeric_limits<float>::infinity();
    wrong_rounding += f.from_float(middle) != bits + (bits & 1u);
    wrong_rounding += f.from_float(std::nextafter(middle, 0.0f)) != bits;
    wrong_rounding += f.from_float(std::nextafter(middle, outwards)) != bits + 1;
  }
  for (const uint32_t bits : {0x7f800001u, 0x7fbfffffu, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu}) {
    const uint16_t back = f.from_float(std::bit_cast<float>(bits));
    wrong_nan += (back & 0x7fffu) <= f.infinity() || (back >> 15) != (bits >> 31);
  }
  const float most = std::numeric_limits<float>::max(), least = std::numeric_limits<float>::denorm_min();
  wrong_rounding += f.from_float(most) != f.infinity() || f.from_float(-most) != (0x8000u | f.infinity());
  wrong_rounding += f.from_float(least) != 0 || f.from_float(-least) != 0x8000u;
  const auto none = [&](int64_t wrong, const char* what) {
    check(wrong == 0, std::string(f.name) + " " + what + ": " + std::to_string(wrong) + " wrong");
  };
  none(wrong_value, "to f32");
  none(wrong_return, "to f32 and back");
  none(wrong_rounding, "rounds to nearest, ties to even");
  none(wrong_nan, "keeps NaN and its sign");
}

}  // namespace

int main() {
  test_format({"bf16", 8, 7, float_from_bf16, bf16_from_float});
  test_format({"f16", 5, 10, float_from_f16, f16_from_float});
  return test::finish();
}
