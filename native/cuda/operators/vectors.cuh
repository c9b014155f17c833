#pragma once

#include <algorithm>

#include "base/tensor.h"
#include "cuda/primitives.cuh"

// Neighbouring elements that a thread moves at once, and, on the host, when it may: takes_vectors() judges by the addresses and
// strides that are known at a launch.
namespace omni_id::cuda {

// A view as kernels take it.
template <typename T>
struct Matrix {
  T* data;
  int64_t stride;  // elements between rows

  __device__ __forceinline__ T* row(int64_t i) const { return data + i * stride; }
};

template <typename T>
Matrix<T> matrix(const TensorView& view) {
  return {view.as<T>(), view.row_stride};
}

inline constexpr int kVectorBytes = 16;  // the widest access of a thread

// Whether every row of the view, and every run of `width` columns in it, can be moved by accesses of at most 16 bytes. A view
// without data can.
inline bool takes_vectors(const TensorView& view, int64_t width) {
  const size_t size = size_of(view.type.dtype);
  const size_t alignment = std::min<size_t>(kVectorBytes, static_cast<size_t>(width) * size);
  return reinterpret_cast<uintptr_t>(view.data) % alignment == 0 && view.type.columns() % width == 0 &&
         (view.type.rows() <= 1 || static_cast<size_t>(view.row_stride) * size % alignment == 0);
}

template <int width>
__device__ __forceinline__ void load_floats(const float* from, float (&to)[width]) {
  if constexpr (width == 1) {
    to[0] = from[0];
  } else {
#pragma unroll
    for (int i = 0; i < width; i += 4) {
      const float4 four = load_vector<float4>(from + i);
      to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
    }
  }
}

template <int width>
__device__ __forceinline__ void load_floats(const bf16* from, float (&to)[width]) {
  static_assert(width == 1 || width == 4 || width == 8, "one access");
  if constexpr (width == 1) {
    to[0] = to_float(from[0]);
  } else if constexpr (width == 4) {
    const uint2 four = load_vector<uint2>(from);
    to[0] = low_bf16(four.x), to[1] = high_bf16(four.x), to[2] = low_bf16(four.y), to[3] = high_bf16(four.y);
  } else {
    const uint4 eight = load_vector<uint4>(from);
    to[0] = low_bf16(eight.x), to[1] = high_bf16(eight.x), to[2] = low_bf16(eight.y), to[3] = high_bf16(eight.y);
    to[4] = low_bf16(eight.z), to[5] = high_bf16(eight.z), to[6] = low_bf16(eight.w), to[7] = high_bf16(eight.w);
  }
}

template <int width>
__device__ __forceinline__ void store_floats(float* to, const float (&x)[width]) {
  if constexpr (width == 1) {
    to[0] = x[0];
  } else {
#pragma unroll
    for (int i = 0; i < width; i += 4) store_vector(to + i, make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]));
  }
}

template <int width>
__device__ __forceinline__ void store_floats(bf16* to, const float (&x)[width]) {
  static_assert(width == 1 || width == 4 || width == 8, "one access");
  if constexpr (width == 1) {
    to[0] = from_float<bf16>(x[0]);
  } else if constexpr (width == 4) {
    store_vector(to, make_uint2(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3])));
  } else {
    store_vector(to, make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])));
  }
}

}  // namespace omni_id::cuda
