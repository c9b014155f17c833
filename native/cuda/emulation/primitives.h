#pragma once

// The primitives of cuda/primitives.cuh under emulation; their contracts stand there.

#include "cuda/emulation/execution.h"

namespace omni_id::emulation {

uint4 load_matrices(Place at, const void* row, bool transposed);
float4 multiply_bf16(Place at, uint4 a, uint2 b, float4 d);
float4 multiply_tf32(Place at, uint4 a, uint2 b, float4 d);
void copy_async(Place at, void* shared, const void* global, int bytes, int valid);
void commit_copies();
void wait_for_copies(size_t pending);
// Checks the alignment and the access of a vector.
void access_vector(Place at, const void* address, size_t bytes, bool write);
// memcpy by code that is not instrumented: the access has been judged.
void copy_unseen(void* to, const void* from, size_t bytes);

}  // namespace omni_id::emulation

#define ldmatrix_x4(row) ::omni_id::emulation::load_matrices(OMNI_ID_HERE, row, false)
#define ldmatrix_x4_transposed(row) ::omni_id::emulation::load_matrices(OMNI_ID_HERE, row, true)
#define mma_bf16(...) ::omni_id::emulation::multiply_bf16(OMNI_ID_HERE, __VA_ARGS__)
#define mma_tf32(...) ::omni_id::emulation::multiply_tf32(OMNI_ID_HERE, __VA_ARGS__)
#define cp_async_16(...) ::omni_id::emulation::copy_async_of<16>(OMNI_ID_HERE, __VA_ARGS__)
#define cp_async_4(...) ::omni_id::emulation::copy_async_of<4>(OMNI_ID_HERE, __VA_ARGS__)

namespace omni_id::emulation {

template <int bytes>
void copy_async_of(Place at, void* shared, const void* global, int valid = bytes) {
  copy_async(at, shared, global, bytes, valid);
}

}  // namespace omni_id::emulation

namespace omni_id::cuda {

inline unsigned tf32_from(float x) { return (__float_as_uint(x) + 0x1000u) & 0xffffe000u; }

inline void cp_async_commit() { emulation::commit_copies(); }

template <int pending>
void cp_async_wait() {
  emulation::wait_for_copies(pending);
}

template <typename V>
V load_vector(const void* from) {
  emulation::access_vector({}, from, sizeof(V), false);
  V value;
  emulation::copy_unseen(&value, from, sizeof(V));
  return value;
}

template <typename V>
void store_vector(void* to, V value) {
  emulation::access_vector({}, to, sizeof(V), true);
  emulation::copy_unseen(to, &value, sizeof(V));
}

inline float fast_exp2(float x) { return std::exp2(x); }

}  // namespace omni_id::cuda
