#pragma once

// CUDA's names for the C++ compiler: what a kernel's source sees when it is compiled for the host (cuda/execution.cuh). The
// meaning is in machine.h (threads, warps, barriers) and memory.h (every access is judged).

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <tuple>

#include "cuda/emulation/machine.h"
#include "cuda/runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
inline double2 make_double2(double x, double y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

struct __nv_bfloat16 {
  uint16_t bits;
};

inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
// To nearest, ties to even; NaN stays NaN.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  const unsigned bits = __float_as_uint(x);
  if (std::isnan(x)) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}
// Of x half turns.
inline double cospi(double x) { return std::cos(3.14159265358979323846 * x); }
inline double sinpi(double x) { return std::sin(3.14159265358979323846 * x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
// The lowest bit that is set, counted from 1; 0 when none is.
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

#define threadIdx (::omni_id::emulation::thread_index())
#define blockIdx (::omni_id::emulation::block_index())
#define blockDim (::omni_id::emulation::block_dimensions())
#define gridDim (::omni_id::emulation::grid_dimensions())

// Barriers and warp operations carry their place in the source: threads that meet at different ones have diverged.
#define OMNI_ID_HERE (::omni_id::emulation::Place{__FILE__, __LINE__})
#define __syncthreads() ::omni_id::emulation::synchronize_block(OMNI_ID_HERE)
#define __syncthreads_or(predicate) ::omni_id::emulation::synchronize_block_or(OMNI_ID_HERE, predicate)
#define __syncwarp(...) ::omni_id::emulation::synchronize_warp(OMNI_ID_HERE __VA_OPT__(, ) __VA_ARGS__)
#define __shfl_sync(mask, value, lane) ::omni_id::emulation::shuffle(OMNI_ID_HERE, mask, value, lane)
#define __shfl_xor_sync(mask, value, bits) ::omni_id::emulation::shuffle_xor(OMNI_ID_HERE, mask, value, bits)
#define __shfl_up_sync(mask, value, delta) ::omni_id::emulation::shuffle_up(OMNI_ID_HERE, mask, value, delta)
#define __ballot_sync(mask, predicate) ::omni_id::emulation::ballot(OMNI_ID_HERE, mask, predicate)

// One array for the whole block, the same at every thread: known by its place in the source.
#define OMNI_ID_SHARED(T, name, count) \
  auto& name = *static_cast<T(*)[count]>(::omni_id::emulation::static_shared(OMNI_ID_HERE, sizeof(T[count]), alignof(T)))

namespace omni_id::emulation {

// Constant within a kernel: each emulated thread has a stack of its own.
[[gnu::const]] uint3 thread_index();
[[gnu::const]] uint3 block_index();
[[gnu::const]] dim3 block_dimensions();
[[gnu::const]] dim3 grid_dimensions();

template <typename T>
unsigned bits_of(T value) {
  static_assert(sizeof(T) == 4, "shuffles move 32 bits");
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
template <typename T>
T from_bits(unsigned bits) {
  T value;
  std::memcpy(&value, &bits, 4);
  return value;
}
template <typename T>
T shuffle(Place at, unsigned mask, T value, int lane) {
  return from_bits<T>(shuffle_bits(at, mask, bits_of(value), lane & 31));
}
template <typename T>
T shuffle_xor(Place at, unsigned mask, T value, int bits) {
  return from_bits<T>(shuffle_bits(at, mask, bits_of(value), lane_index() ^ bits));
}
template <typename T>
T shuffle_up(Place at, unsigned mask, T value, unsigned delta) {
  return from_bits<T>(shuffle_bits(at, mask, bits_of(value), lane_index() - static_cast<int>(delta)));
}

}  // namespace omni_id::emulation

// Whole numbers only, and only for flags: their order is nobody's.
inline int atomicOr(int* at, int bits) { return ::omni_id::emulation::atomic_or(at, bits); }

namespace omni_id::cuda {

using bf16 = __nv_bfloat16;

template <typename T>
T* dynamic_shared() {
  return static_cast<T*>(emulation::dynamic_shared());
}

template <size_t bytes>
void expect_dynamic_shared() {
  emulation::expect_dynamic_shared(bytes);
}

template <unsigned n>
void expect_threads() {
  emulation::expect_threads(n);
}

template <auto kernel>
void allow_shared(size_t bytes) {
  emulation::allow_shared(reinterpret_cast<const void*>(kernel), bytes);
}

template <auto kernel, typename... Given>
void launch(const Stream& stream, dim3 grid, unsigned threads, size_t shared_bytes, Given... given) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  emulation::Launch what{__PRETTY_FUNCTION__, reinterpret_cast<const void*>(kernel), grid.x, grid.y, grid.z, threads,
                         shared_bytes};
  // Arguments are converted here, once, and copied for every thread, as CUDA does.
  [&]<typename... Wanted>(void (*)(Wanted...)) {
    using Arguments = std::tuple<Wanted...>;
    emulation::enqueue(stream, std::move(what), std::make_shared<Arguments>(given...), sizeof(Arguments),
                       [](const void* arguments) { std::apply(kernel, *static_cast<const Arguments*>(arguments)); });
  }(kernel);
}

}  // namespace omni_id::cuda
