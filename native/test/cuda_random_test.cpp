// Random numbers of the device (cuda/philox.cuh), emulated or real, beside the host's.
#include <cmath>

#include "base/philox.h"
#include "cuda/random.h"
#include "test/check.h"
#include "weights/weight_store.h"

using namespace omni_id;
using test::check;

namespace {

constexpr uint64_t kSeed = 0x123456789abcdef0u;

std::vector<float> filled(int64_t count, cuda::Distribution distribution, uint64_t random_stream, uint64_t first,
                          size_t offset) {
  const cuda::Stream stream(0);
  std::byte* memory = cuda::allocate(stream, (static_cast<size_t>(count) + offset) * sizeof(float));
  cuda::declare_regions("fill_random", {{memory + offset * sizeof(float), static_cast<size_t>(count) * sizeof(float),
                                         static_cast<size_t>(count) * sizeof(float), 1, true, "numbers"}});
  cuda::fill_random(stream, reinterpret_cast<float*>(memory) + offset, count, distribution, kSeed, random_stream, first);
  std::vector<float> numbers(static_cast<size_t>(count));
  cuda::copy_to_host(stream, numbers.data(), memory + offset * sizeof(float), numbers.size() * sizeof(float));
  stream.synchronize();
  cuda::release(stream, memory);
  return numbers;
}

// FNV-1a, by which WeightStore makes a stream of a name.
uint64_t stream_of(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const unsigned char c : name) hash = (hash ^ c) * 0x100000001b3u;
  return hash;
}

}  // namespace

int main() {
  // Beyond 2^32 counters, with a tail, aligned and not.
  const uint64_t first = uint64_t{0xfffffff0} * 4, random_stream = 0xfedcba9876543210u;
  for (const size_t offset : {0, 1}) {
    const std::vector<float> numbers = filled(1027, cuda::Distribution::uniform, random_stream, first, offset);
    bool same = true;
    for (size_t i = 0; i < numbers.size(); ++i) {
      const uint64_t block = first / 4 + i / 4;
      const auto bits = philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                                    static_cast<uint32_t>(random_stream), static_cast<uint32_t>(random_stream >> 32)},
                                   {static_cast<uint32_t>(kSeed), static_cast<uint32_t>(kSeed >> 32)});
      same = same && numbers[i] == static_cast<float>(bits[i % 4] >> 8) * 0x1p-24f;
    }
    check(same, "uniform numbers are the host's to the bit, offset " + std::to_string(offset));
  }

  const int64_t count = 4099;
  WeightStore weights;
  weights.set_normal("noise", {count}, kSeed, 0.0, 1.0, [](int64_t tasks, const std::function<void(int64_t)>& body) {
    for (int64_t task = 0; task < tasks; ++task) body(task);
  });
  const auto* expected = reinterpret_cast<const float*>(weights.at("noise").data);
  const std::vector<float> numbers = filled(count, cuda::Distribution::normal, stream_of("noise"), 0, 0);
  int64_t different = 0;
  double worst = 0.0;  // in units of the last place
  for (int64_t i = 0; i < count; ++i) {
    const float mine = numbers[static_cast<size_t>(i)];
    different += mine != expected[i];
    const double unit = std::ldexp(1.0, std::ilogb(expected[i]) - 23), error = std::abs(double{mine} - expected[i]) / unit;
    if (!(error <= worst)) worst = error;
  }
  check(different <= count / 1000 && worst <= 1.0,
        "normal numbers are the host's but for rare last bits: " + std::to_string(different) + " differ, by " +
            std::to_string(worst) + " units at most");
  return test::finish();
}
