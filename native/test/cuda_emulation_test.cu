// The emulation itself (native/cuda/emulation): each defect that it must report, in the smallest kernel that has it, beside the
// same kernel without the defect, which must run clean and give the right numbers.
#include <cmath>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "cuda/primitives.cuh"
#include "test/check.h"

using omni_id::EngineError;
using omni_id::test::check;

namespace omni_id::cuda {

namespace {

constexpr int kThreads = 128;

// What is wrong with a kernel; each knows a few of them.
enum Defect {
  none,
  no_barrier,
  barrier_too_late,
  some_skip_barrier,
  two_barriers,
  partial_mask,
  other_operation,
  lane_misses,
  beyond_shared,
  unwritten_shared,
  unaligned,
  out_of_bounds,
  read_only,
  no_wait,
  wait_for_older,
  no_barrier_after_wait,
  overwrites_stage,
  never_waits,
  misaligned_copy,
  no_warp_barrier,
  other_block,
  vector_of_floats,
};

// out[i] = x[neighbour of i], through shared memory.
__global__ void exchange_kernel(const float* x, float* out, Defect defect) {
  float* shared = dynamic_shared<float>();
  const int i = threadIdx.x;
  if (defect != unwritten_shared || i != 5) shared[i] = x[i];
  if (defect == some_skip_barrier && i >= 64) return;
  if (defect == two_barriers) {
    if (i < 64) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if (defect != no_barrier) {
    __syncthreads();
  }
  out[i] = shared[(i + 1) % kThreads];
  if (defect == barrier_too_late) shared[i] = 0.0f;
  __syncthreads();
  if (defect == beyond_shared && i == 0) shared[kThreads] = 1.0f;
}

// out[i] = x[neighbour of i within the warp].
__global__ void warp_exchange_kernel(const float* x, float* out, Defect defect) {
  OMNI_ID_SHARED(float, shared, kThreads);
  const int i = threadIdx.x, lane = i % kWarp, neighbour = i - lane + (lane + 1) % kWarp;
  shared[i] = x[i];
  if (defect != no_warp_barrier) __syncwarp();
  const float through_memory = shared[neighbour];
  float through_registers = 0.0f;
  if (defect == partial_mask) {
    through_registers = __shfl_sync(0xffffu, x[i], (lane + 1) % kWarp);
  } else if (defect == other_operation) {
    if (lane < 16) {
      through_registers = __shfl_sync(kFullMask, x[i], (lane + 1) % kWarp);
    } else {
      through_registers = static_cast<float>(__ballot_sync(kFullMask, lane > 3));
    }
  } else if (defect == lane_misses) {
    if (i != 7) through_registers = __shfl_sync(kFullMask, x[i], (lane + 1) % kWarp);
  } else {
    through_registers = __shfl_sync(kFullMask, x[i], (lane + 1) % kWarp);
  }
  out[i] = through_memory == through_registers ? through_memory : -1.0f;
}

__global__ void copy_kernel(float* x, float* out, int count, Defect defect) {
  const int i = (blockIdx.x * kThreads + threadIdx.x) * 4;
  if (i >= count) return;
  store_vector(out + i, load_vector<float4>(x + i + (defect == unaligned ? 1 : 0)));
  if (defect == out_of_bounds && i + 4 == count) out[count] = 0.0f;
  if (defect == read_only && i == 0) x[0] = 1.0f;
  if (defect == other_block && blockIdx.x == 1) out[i] = out[i - 4 * kThreads];
}

// out[i] = Σ over tiles of x[tile, i reversed], with two stages of cp.async.
__global__ void pipeline_kernel(const float* x, float* out, int tiles, Defect defect) {
  float* stages = dynamic_shared<float>();
  const int i = threadIdx.x;
  const auto fetch = [&](int tile) {
    if (tile < tiles && i < kThreads / 4) {
      cp_async_16(stages + tile % 2 * kThreads + 4 * i, x + tile * kThreads + 4 * i + (defect == misaligned_copy ? 1 : 0));
    }
    cp_async_commit();
  };
  float sum = 0.0f;
  fetch(0);
  for (int tile = 0; tile < tiles; ++tile) {
    fetch(tile + 1);
    if (defect == wait_for_older) {
      cp_async_wait<2>();
    } else if (defect != no_wait) {
      cp_async_wait<1>();
    }
    if (defect != no_barrier_after_wait) __syncthreads();
    sum += stages[tile % 2 * kThreads + kThreads - 1 - i];
    if (defect != overwrites_stage) __syncthreads();
  }
  if (defect != never_waits) {
    cp_async_wait<0>();
  } else {
    fetch(0);
  }
  out[i] = sum;
}

// c = a · b, a [16, 16] by rows, b [16, 8] by rows (its fragments through ldmatrix with transposition).
__global__ void product_kernel(const bf16* a, const bf16* b, float* c) {
  bf16* shared = dynamic_shared<bf16>();
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += kWarp) shared[i] = a[i];
  for (int i = lane; i < 128; i += kWarp) shared[256 + i] = b[i];
  __syncwarp();
  const uint4 left = ldmatrix_x4(shared + lane % 16 * 16 + lane / 16 * 8);
  const uint4 right = ldmatrix_x4_transposed(shared + 256 + lane % 16 * 8);  // twice the same two matrices
  const float4 d = mma_bf16(left, make_uint2(right.x, right.y), make_float4(0.0f, 0.0f, 0.0f, 0.0f));
  const int row = lane / 4, column = lane % 4 * 2;
  store_vector(c + row * 8 + column, make_float2(d.x, d.y));
  store_vector(c + (row + 8) * 8 + column, make_float2(d.z, d.w));
}

// c = a · b, a [16, 8] by rows, b [8, 8] by rows, in tf32.
__global__ void tf32_product_kernel(const float* a, const float* b, float* c) {
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  const uint4 left = make_uint4(tf32_from(a[g * 8 + t]), tf32_from(a[(g + 8) * 8 + t]), tf32_from(a[g * 8 + t + 4]),
                                tf32_from(a[(g + 8) * 8 + t + 4]));
  const uint2 right = make_uint2(tf32_from(b[t * 8 + g]), tf32_from(b[(t + 4) * 8 + g]));
  const float4 d = mma_tf32(left, right, make_float4(0.0f, 0.0f, 0.0f, 0.0f));
  store_vector(c + g * 8 + 2 * t, make_float2(d.x, d.y));
  store_vector(c + (g + 8) * 8 + 2 * t, make_float2(d.z, d.w));
}

__global__ void fill_kernel(float* out, float value) { out[threadIdx.x] = value; }

// Static shared memory beside dynamic, in a block of at most kThreads.
template <int words>
__global__ void __launch_bounds__(kThreads) static_kernel(float* out, Defect defect) {
  expect_threads<kThreads>();
  OMNI_ID_SHARED(float, shared, words);
  const int i = threadIdx.x;
  shared[i] = 1.0f;
  if (defect == vector_of_floats && i % 4 == 0) store_vector(shared + i, make_float4(1.0f, 1.0f, 1.0f, 1.0f));
  out[i] = shared[i];
}

// Device memory with values in it.
template <typename T>
struct Array {
  explicit Array(const std::vector<T>& values)
      : count(values.size()), data(reinterpret_cast<T*>(allocate(stream, values.size() * sizeof(T)))) {
    copy_to_device(stream, bytes(), values.data(), count * sizeof(T));
    stream.synchronize();
  }
  ~Array() { release(stream, bytes()); }
  std::byte* bytes() const { return reinterpret_cast<std::byte*>(data); }
  std::vector<T> read() const {
    std::vector<T> values(count);
    copy_to_host(stream, values.data(), bytes(), count * sizeof(T));
    stream.synchronize();
    return values;
  }

  Stream stream{0};
  size_t count;
  T* data;
};

std::vector<float> rising(int count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) values[static_cast<size_t>(i)] = static_cast<float>(i);
  return values;
}

// The finding of what `body` launches, or nothing.
template <typename Body>
std::string finding(Body&& body) {
  const Stream stream(0);
  try {
    body(stream);
    stream.synchronize();
  } catch (const EngineError& error) {
    return std::string(error.code()) == kDevice ? error.what() : std::string("not a finding: ") + error.what();
  }
  return {};
}

void expect(const std::string& found, const std::string& wanted, const std::string& what) {
  check(wanted.empty() ? found.empty() : found.find(wanted) != std::string::npos,
        what + ": " + (found.empty() ? "no finding" : found) + (wanted.empty() ? "" : ", expected \"" + wanted + "\""));
}

void test_blocks() {
  const Array<float> x(rising(kThreads)), out(rising(kThreads));
  const auto run = [&](Defect defect) {
    return finding([&](const Stream& s) { launch<exchange_kernel>(s, 1, kThreads, kThreads * 4, x.data, out.data, defect); });
  };
  for (int repeat = 0; repeat < 5; ++repeat) {  // in another order each time
    expect(run(none), "", "an exchange through shared memory");
    check(out.read()[3] == 4.0f && out.read()[kThreads - 1] == 0.0f, "the exchange gives the neighbours' values");
    const std::string race = run(no_barrier);
    check(race.find("races with") != std::string::npos || race.find("nobody has written") != std::string::npos,
          "a missing barrier: " + race);
    expect(run(barrier_too_late), "races with", "a write before others have read");
  }
  expect(run(some_skip_barrier), "wait for each other for ever", "a barrier that half of the threads skip");
  expect(run(two_barriers), "__syncthreads diverged", "two barriers that meet");
  expect(run(unwritten_shared), "nobody has written", "shared memory that was not written");
  expect(run(beyond_shared), "beyond the block's 512 bytes", "shared memory beyond its end");
  expect(run(beyond_shared), "cuda_emulation_test.cu:", "a finding names its place");
  expect(run(beyond_shared), "exchange_kernel, block (0, 0, 0), thread 0", "a finding names kernel, block and thread");
}

void test_warps() {
  const Array<float> x(rising(kThreads)), out(rising(kThreads));
  const auto run = [&](Defect defect) {
    return finding([&](const Stream& s) { launch<warp_exchange_kernel>(s, 1, kThreads, 0, x.data, out.data, defect); });
  };
  expect(run(none), "", "an exchange within a warp");
  check(out.read()[3] == 4.0f && out.read()[31] == 0.0f && out.read()[32] == 33.0f,
        "the warp's exchange gives the neighbours' values");
  const std::string race = run(no_warp_barrier);
  check(race.find("races with") != std::string::npos || race.find("nobody has written") != std::string::npos,
        "a missing __syncwarp: " + race);
  expect(run(partial_mask), "mask", "a mask that is not all lanes");
  expect(run(other_operation), "the warp diverged", "a shuffle that meets a vote");
  expect(run(lane_misses), "wait for each other for ever", "a shuffle without one of its lanes");
}

void test_global_memory() {
  const int count = 4 * kThreads * 2;
  const Array<float> x(rising(count + 4)), out(rising(count + 4));
  const auto run = [&](Defect defect) {
    const std::string found = finding([&](const Stream& s) {
      declare_regions("copy",
                      {{x.bytes(), count * 4, count * 4, 1, false, "x"}, {out.bytes(), count * 4, count * 4, 1, true, "out"}});
      launch<copy_kernel>(s, dim3(2), kThreads, 0, x.data, out.data, count, defect);
    });
    declare_regions("", {});
    return found;
  };
  expect(run(none), "", "a copy");
  check(out.read()[count - 1] == static_cast<float>(count - 1), "the copy is complete");
  expect(run(unaligned), "not aligned", "a vector that is not aligned");
  expect(run(out_of_bounds), "outside of every operand", "a write beyond an operand, within its allocation");
  expect(run(out_of_bounds), "copy's out + 0x1000", "a finding names the operand");
  expect(run(read_only), "writes to what is only to be read", "a write to an input");
  expect(run(other_block), "races with the", "a read of what another block writes");
  expect(finding([&](const Stream& s) { launch<copy_kernel>(s, dim3(2), kThreads, 0, x.data, out.data + 1, count, none); }),
         "not aligned", "a vector store that is not aligned");
  const Array<float> small(rising(8));
  expect(finding([&](const Stream& s) { launch<copy_kernel>(s, dim3(1), kThreads, 0, x.data, small.data, 16, none); }),
         "outside of every allocation", "a write beyond an allocation");
}

void test_copies() {
  const int tiles = 5;
  const Array<float> x(rising(tiles * kThreads + 4)), out(rising(kThreads));
  const auto run = [&](Defect defect) {
    return finding(
        [&](const Stream& s) { launch<pipeline_kernel>(s, 1, kThreads, 2 * kThreads * 4, x.data, out.data, tiles, defect); });
  };
  expect(run(none), "", "a pipeline of copies");
  check(out.read()[0] == 127.0f * tiles + kThreads * 10.0f, "the pipeline sums what it copied");
  expect(run(no_wait), "still copying", "a missing wait");
  expect(run(wait_for_older), "still copying", "a wait for the group before");
  for (int repeat = 0; repeat < 5; ++repeat) {
    const std::string race = run(no_barrier_after_wait);
    check(race.find("races with") != std::string::npos || race.find("nobody has written") != std::string::npos ||
              race.find("still copying") != std::string::npos,
          "a missing barrier after a wait: " + race);
  }
  expect(run(overwrites_stage), "races with", "a copy onto what others still read");
  expect(run(never_waits), "never waited for", "copies that nobody waits for");
  expect(run(misaligned_copy), "not aligned", "a copy that is not aligned");
}

void test_launches() {
  const Array<float> x(rising(kThreads)), out(rising(kThreads));
  const auto run = [&](unsigned threads, size_t shared) {
    return finding([&](const Stream& s) { launch<exchange_kernel>(s, 1, threads, shared, x.data, out.data, none); });
  };
  expect(run(48, 512), "multiple of 32", "a block of 48 threads");
  expect(run(2048, 512), "multiple of 32 up to 1,024", "a block of 2,048 threads");
  expect(run(kThreads, 60000), "without allow_shared", "much shared memory that was not asked for");
  allow_shared<exchange_kernel>(60000);
  expect(run(kThreads, 60000), "", "much shared memory that was asked for");
  const auto with_static = [&]<int words>(unsigned threads, size_t shared, Defect defect = none) {
    return finding([&](const Stream& s) { launch<static_kernel<words>>(s, 1, threads, shared, out.data, defect); });
  };
  constexpr int k20KB = 20 << 8;
  expect(with_static.operator()<k20KB>(kThreads, 28 << 10), "", "static and dynamic shared memory up to 48 KB");
  expect(with_static.operator()<k20KB>(kThreads, 29 << 10), "without allow_shared", "static and dynamic above 48 KB together");
  allow_shared<static_kernel<k20KB>>(29 << 10);
  expect(with_static.operator()<k20KB>(kThreads, 29 << 10), "", "static and dynamic above 48 KB, asked for");
  expect(with_static.operator()<k20KB>(kThreads + 32, 0), "expects 128", "more threads than the kernel's bound");
  expect(with_static.operator()<kThreads>(kThreads, 0), "", "a static array");
  expect(with_static.operator()<kThreads>(kThreads, 0, vector_of_floats), "not aligned", "a vector in an array of floats");
  check(test::code_of<EngineError>([] { allow_shared<exchange_kernel>(size_t{100} << 10); }) == kDevice,
        "more shared memory than the architecture has");
}

void test_products() {
  std::mt19937 random(3);
  std::uniform_int_distribution<int> small(-3, 3);
  std::vector<float> a(256), b(128);
  for (float& value : a) value = static_cast<float>(small(random));
  for (float& value : b) value = static_cast<float>(small(random));
  const auto wrong = [&](const std::vector<float>& c, int depth, int a_stride) {
    int count = 0;
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 8; ++j) {
        float sum = 0.0f;
        for (int k = 0; k < depth; ++k) sum += a[static_cast<size_t>(i * a_stride + k)] * b[static_cast<size_t>(k * 8 + j)];
        count += c[static_cast<size_t>(i * 8 + j)] != sum;
      }
    }
    return count;
  };
  std::vector<bf16> narrow_a, narrow_b;
  for (const float value : a) narrow_a.push_back(__float2bfloat16_rn(value));
  for (const float value : b) narrow_b.push_back(__float2bfloat16_rn(value));
  const Array<bf16> da(narrow_a), db(narrow_b);
  const Array<float> fa(a), fb(b), c(std::vector<float>(128));
  expect(finding([&](const Stream& s) { launch<product_kernel>(s, 1, kWarp, 768, da.data, db.data, c.data); }), "",
         "a product in bf16");
  check(wrong(c.read(), 16, 16) == 0, "the product in bf16 is exact");
  expect(finding([&](const Stream& s) { launch<tf32_product_kernel>(s, 1, kWarp, 0, fa.data, fb.data, c.data); }), "",
         "a product in tf32");
  check(wrong(c.read(), 8, 8) == 0, "the product in tf32 is exact");

  // 1 and halves of its last place: eight products are summed exactly and cut off, the next eight behind them.
  const auto sum_with = [&](const std::vector<size_t>& halves) {
    std::vector<bf16> left(256, __float2bfloat16_rn(0.0f)), right(128, __float2bfloat16_rn(0.0f));
    left[0] = right[0] = __float2bfloat16_rn(1.0f);
    for (const size_t k : halves) {
      left[k] = __float2bfloat16_rn(0x1p-12f);
      right[k * 8] = __float2bfloat16_rn(0x1p-12f);
    }
    const Array<bf16> a_of(left), b_of(right);
    expect(finding([&](const Stream& s) { launch<product_kernel>(s, 1, kWarp, 768, a_of.data, b_of.data, c.data); }), "",
           "a product of few");
    return c.read()[0];
  };
  check(sum_with({1}) == 1.0f && sum_with({1, 2}) == 1.0f + 0x1p-23f, "eight products are summed exactly");
  check(sum_with({1, 2, 3}) == 1.0f + 0x1p-23f, "and cut off, where rounding would give more");
  check(sum_with({1, 8}) == 1.0f && sum_with({8, 9}) == 1.0f + 0x1p-23f, "the next eight come after that");
}

void test_streams() {
  int missed = 0;
  for (int repeat = 0; repeat < 40; ++repeat) {
    const Array<float> x(std::vector<float>(kWarp, 0.0f));
    const bool waits = repeat % 2 == 0;
    const Stream writer(0), reader(0);
    float value = -1.0f;
    launch<fill_kernel>(writer, 1, kWarp, 0, x.data, 7.0f);
    Event filled(0);
    filled.record(writer);
    if (waits) filled.synchronize();
    copy_to_host(reader, &value, x.bytes(), sizeof value);
    check(value == -1.0f, "nothing runs before somebody waits for it");
    reader.synchronize();
    if (waits) check(value == 7.0f, "what has been waited for is done first");
    missed += !waits && value != 7.0f;
  }
  check(missed > 0, "a stream misses another's work that nobody has waited for");

  const Array<float> x(std::vector<float>(kWarp, 0.0f));
  const Stream stream(0);
  const Recording recording(stream, [&] { launch<fill_kernel>(stream, 1, kWarp, 0, x.data, 3.0f); });
  stream.synchronize();
  check(x.read()[0] == 0.0f, "recording runs nothing");
  recording.launch(stream);
  stream.synchronize();
  check(x.read()[0] == 3.0f, "a recording is repeated");
  Event event(0);
  event.record(stream);
  const auto while_recorded = [&](const std::function<void()>& body) {
    return test::code_of<EngineError>([&] { const Recording refused(stream, body); });
  };
  check(while_recorded([&] { stream.synchronize(); }) == kDevice, "a stream that is recorded cannot be waited for");
  check(while_recorded([&] { event.record(stream); }) == kDevice, "nor marked");
  check(while_recorded([&] { event.synchronize(); }) == kDevice, "nor its past");
  check(test::code_of<EngineError>([&] { stream.synchronize(); }).empty(), "and it works after that");
}

void test_memory() {
  const Stream stream(0);
  setenv("OMNI_ID_EMULATED_MEMORY", "1000000", 1);
  check(test::code_of<EngineError>([&] { release(stream, allocate(stream, 2000000)); }) == kOutOfMemory, "memory runs out");
  release(stream, allocate(stream, 500000));
  release(stream, allocate(stream, 900000));
  unsetenv("OMNI_ID_EMULATED_MEMORY");
  const std::vector<float> values = rising(8);
  const Array<float> fresh(rising(4));
  const auto copy = [&] {
    copy_to_device(stream, fresh.bytes(), values.data(), values.size() * sizeof(float));
    stream.synchronize();
  };
  check(test::code_of<EngineError>(copy) == kDevice, "a copy beyond an allocation");
}

}  // namespace

void test_all() {
  test_blocks();
  test_warps();
  test_global_memory();
  test_copies();
  test_launches();
  test_products();
  test_streams();
  test_memory();
}

}  // namespace omni_id::cuda

int main() {
  omni_id::cuda::test_all();
  return omni_id::test::finish();
}
