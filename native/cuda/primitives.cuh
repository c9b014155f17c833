#pragma once

// Instructions of the processor that have no name in CUDA C++, one function each, and conversions. Under emulation they are
// native/cuda/emulation/primitives.h's.

#include "cuda/execution.cuh"

#ifdef OMNI_ID_EMULATION
#include "cuda/emulation/primitives.h"
#else

namespace omni_id::cuda {

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// Four matrices of 8 × 8 16-bit elements from shared memory. Lane i gives the address of row i % 8 of matrix i / 8, 16-byte
// aligned; register j of lane l receives elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of matrix j. `_transposed`: of
// column l / 4.
__device__ __forceinline__ uint4 ldmatrix_x4(const void* row) {
  uint4 r;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
               : "r"(shared_address(row))
               : "memory");
  return r;
}

__device__ __forceinline__ uint4 ldmatrix_x4_transposed(const void* row) {
  uint4 r;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
               : "r"(shared_address(row))
               : "memory");
  return r;
}

// d + a · b with a [16, 16] and b [16, 8] in bf16, d [16, 8] in f32. Fragments, with g = lane / 4 and t = lane % 4:
// a.x (g, 2t), a.y (g + 8, 2t), a.z (g, 2t + 8), a.w (g + 8, 2t + 8), each with its right neighbour in the upper half;
// b.x (2t, g), b.y (2t + 8, g), each with the element below in the upper half; d.x, d.y (g, 2t), (g, 2t + 1), d.z, d.w the same
// in row g + 8.
__device__ __forceinline__ float4 mma_bf16(uint4 a, uint2 b, float4 d) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d.x), "+f"(d.y), "+f"(d.z), "+f"(d.w)
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
  return d;
}

// d + a · b with a [16, 8] and b [8, 8] in tf32 (an f32 whose lower 13 bits are ignored), d [16, 8] in f32: a.x (g, t),
// a.y (g + 8, t), a.z (g, t + 4), a.w (g + 8, t + 4); b.x (t, g), b.y (t + 4, g); d as above.
__device__ __forceinline__ float4 mma_tf32(uint4 a, uint2 b, float4 d) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d.x), "+f"(d.y), "+f"(d.z), "+f"(d.w)
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
  return d;
}

// The nearest tf32, as the bits of an f32.
__device__ __forceinline__ unsigned tf32_from(float x) {
  unsigned r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return r;
}

// Copies 16 (4) bytes from global to shared memory beside the thread's further work; of these the first `valid` are read and
// the rest become zeros. Both addresses are aligned to the size. The data are there for this thread after cp_async_wait, for
// others after a barrier that follows it.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, int valid = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid)
               : "memory");
}

__device__ __forceinline__ void cp_async_4(void* shared, const void* global, int valid = 4) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid)
               : "memory");
}

// Ends a group of copies.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `pending` of the youngest groups are under way.
template <int pending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// 8 or 16 bytes at once: V is float2, float4, uint2 or uint4, aligned to its size.
template <typename V>
__device__ __forceinline__ V load_vector(const void* from) {
  return *reinterpret_cast<const V*>(from);
}

template <typename V>
__device__ __forceinline__ void store_vector(void* to, V value) {
  *reinterpret_cast<V*>(to) = value;
}

// 2 to the power of x, to 2 units in the last place (the processor's own).
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace omni_id::cuda

#endif

namespace omni_id::cuda {

constexpr int kWarp = 32;
constexpr unsigned kFullMask = 0xffffffffu;
// A row of a matrix that ldmatrix reads, and the most that a cp.async moves.
constexpr int kChunkBytes = 16;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}

// Two bf16 in a register: `low` in the lower half, which is the lower address.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
  return static_cast<unsigned>(__bfloat16_as_ushort(__float2bfloat16_rn(low))) |
         static_cast<unsigned>(__bfloat16_as_ushort(__float2bfloat16_rn(high))) << 16;
}
__device__ __forceinline__ float low_bf16(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_bf16(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

// The sum or the largest of all lanes' values, in all lanes; the same order of additions in each.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kFullMask, x, offset);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kFullMask, x, offset));
  return x;
}

// The thread's number as the compiler cannot know it: addresses that follow from it are computed again for every tile, instead
// of being kept in registers from before the loop, which loops full of sums have none left for.
__device__ __forceinline__ int thread_again() {
  int thread = static_cast<int>(threadIdx.x);
  asm volatile("" : "+r"(thread));
  return thread;
}

}  // namespace omni_id::cuda
