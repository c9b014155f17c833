#include <algorithm>
#include <chrono>

#include "cpu/device.h"

namespace omni_id {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRounds = 5;
constexpr int64_t kStepsPerCall = 10'000;  // some 50 µs: short beside a round, long beside a look at the clock
// Far larger than any cache, and read by all threads together.
constexpr int64_t kMemoryFloats = int64_t{64} << 20;
constexpr int64_t kFloatsPerCall = int64_t{1} << 18;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

}  // namespace

double CpuDevice::measure_peak(Peak what, double seconds) {
  if (what == Peak::bf16 && !kernels_.peak_bf16) return 0.0;
  const int64_t workers = pool_.size();
  std::shared_ptr<Buffer> buffer;
  if (what == Peak::memory_read) {
    buffer = allocate(static_cast<size_t>(kMemoryFloats) * sizeof(float));
    auto* floats = reinterpret_cast<float*>(buffer->data());
    pool_.parallel_for(workers, [&](int64_t worker, int) {
      std::fill(floats + kMemoryFloats * worker / workers, floats + kMemoryFloats * (worker + 1) / workers, 1.0f);
    });
  }
  double best = 0.0;
  for (int round = 0; round < kRounds; ++round) {
    // A task is one thread's share: it works until the round is over, so that each thread takes one. The slowest start counts.
    std::vector<double> done(static_cast<size_t>(workers));
    const Clock::time_point begin = Clock::now();
    pool_.parallel_for(workers, [&](int64_t task, int) {
      double sum = 0.0;
      int64_t at = buffer ? std::min(kMemoryFloats * task / workers, kMemoryFloats - kFloatsPerCall) : 0;
      while (seconds_since(begin) < seconds / kRounds) {
        if (what == Peak::f32) sum += kernels_.peak_f32(kStepsPerCall);
        if (what == Peak::bf16) sum += kernels_.peak_bf16(kStepsPerCall);
        if (what == Peak::memory_read) {
          sum += kernels_.read_memory(reinterpret_cast<const float*>(buffer->data()) + at, kFloatsPerCall);
          at = (at + kFloatsPerCall) % (kMemoryFloats - kFloatsPerCall);
        }
      }
      done[static_cast<size_t>(task)] = sum;
    });
    double total = 0.0;
    for (double one : done) total += one;
    best = std::max(best, total / seconds_since(begin));
  }
  return best;
}

}  // namespace omni_id
