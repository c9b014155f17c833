#pragma once

#include "cuda/operators/activations.cuh"

// What becomes of a product's sums: y = (gate ⊙ activation(sum + bias), or sum · activation'(derivative_at)) + addend, in f32
// until it is written. One struct for all operators whose parts are chosen at run time: the branches are the same for all
// threads, and an instance of the product for each combination would cost minutes of compilation.
//
// The sums of a block pass through shared memory once, so that a thread gets four neighbouring columns of a row and eight
// threads a segment of 128 bytes: the operands of the epilogue and its results are read and written 16 bytes at a time. Four
// columns hang together; each value is read and written by one thread, so that the addend may lie where the result goes.
namespace omni_id::cuda {

struct Epilogue {
  int64_t rows = 0, columns = 0;
  const float* bias = nullptr;
  Activation activation = Activation::none;  // or that whose derivative is taken
  // sum + bias, of the result's type.
  void* kept = nullptr;
  int64_t kept_stride = 0;
  const void* derivative_at = nullptr;
  int64_t derivative_stride = 0;
  bool derivative_bf16 = false;
  // Row i is multiplied by row i / gate_rows.
  const float* gate = nullptr;
  int64_t gate_stride = 0;
  unsigned gate_rows = 0;
  const float* addend = nullptr;
  int64_t addend_stride = 0;
  // With a period, row i gets row i % addend_period of the addend, and the first row of each period `first_row` too. Then
  // there are fewer than 2^32 rows.
  unsigned addend_period = 0;
  const float* first_row = nullptr;
  void* out = nullptr;
  int64_t out_stride = 0;
  bool out_bf16 = false;
  // All of these allow accesses to four columns at once.
  bool vectors = false;
};

// `count` of four columns, the others 0.
template <typename T>
__device__ __forceinline__ float4 load_columns(const T* from, int count, bool vectors) {
  if (vectors && count == 4) {
    if constexpr (sizeof(T) == 2) {
      const uint2 pairs = load_vector<uint2>(from);
      return make_float4(low_bf16(pairs.x), high_bf16(pairs.x), low_bf16(pairs.y), high_bf16(pairs.y));
    } else {
      return load_vector<float4>(from);
    }
  }
  return make_float4(to_float(from[0]), count > 1 ? to_float(from[1]) : 0.0f, count > 2 ? to_float(from[2]) : 0.0f,
                     count > 3 ? to_float(from[3]) : 0.0f);
}

template <typename T>
__device__ __forceinline__ void store_columns(T* to, float4 v, int count, bool vectors) {
  if (vectors && count == 4) {
    if constexpr (sizeof(T) == 2) {
      store_vector(to, make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)));
    } else {
      store_vector(to, v);
    }
    return;
  }
  to[0] = from_float<T>(v.x);
  if (count > 1) to[1] = from_float<T>(v.y);
  if (count > 2) to[2] = from_float<T>(v.z);
  if (count > 3) to[3] = from_float<T>(v.w);
}

__device__ __forceinline__ void store_columns(void* to, bool bf16_values, int64_t at, float4 v, int count, bool vectors) {
  if (bf16_values) {
    store_columns(static_cast<bf16*>(to) + at, v, count, vectors);
  } else {
    store_columns(static_cast<float*>(to) + at, v, count, vectors);
  }
}

__device__ __forceinline__ float4 sum_of(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

__device__ __forceinline__ float4 product_of(float4 a, float4 b) {
  return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

__device__ __forceinline__ float4 activated(Activation activation, float4 v) {
  if (activation == Activation::gelu) {
    return make_float4(activate<Activation::gelu>(v.x), activate<Activation::gelu>(v.y), activate<Activation::gelu>(v.z),
                       activate<Activation::gelu>(v.w));
  }
  if (activation == Activation::quick_gelu) {
    return make_float4(activate<Activation::quick_gelu>(v.x), activate<Activation::quick_gelu>(v.y),
                       activate<Activation::quick_gelu>(v.z), activate<Activation::quick_gelu>(v.w));
  }
  return v;
}

template <Activation activation>
__device__ __forceinline__ float4 times_derivative(float4 v, float4 at) {
  return make_float4(v.x * derivative<activation>(at.x), v.y * derivative<activation>(at.y), v.z * derivative<activation>(at.z),
                     v.w * derivative<activation>(at.w));
}

// The sums of columns [column, column + 4) of a row, of which at least the first exists.
__device__ __forceinline__ void finish(const Epilogue& e, int64_t row, int64_t column, float4 v) {
  const int count = static_cast<int>(min(e.columns - column, int64_t{4}));
  if (e.bias) v = sum_of(v, load_columns(e.bias + column, count, e.vectors));
  if (e.kept) store_columns(e.kept, e.out_bf16, row * e.kept_stride + column, v, count, e.vectors);
  if (e.derivative_at) {
    const int64_t at = row * e.derivative_stride + column;
    const float4 x = e.derivative_bf16 ? load_columns(static_cast<const bf16*>(e.derivative_at) + at, count, e.vectors)
                                       : load_columns(static_cast<const float*>(e.derivative_at) + at, count, e.vectors);
    v = e.activation == Activation::gelu ? times_derivative<Activation::gelu>(v, x)
                                         : times_derivative<Activation::quick_gelu>(v, x);
  } else {
    v = activated(e.activation, v);
  }
  if (e.gate) {
    const int64_t group = static_cast<unsigned>(row) / e.gate_rows;
    v = product_of(v, load_columns(e.gate + group * e.gate_stride + column, count, e.vectors));
  }
  if (e.addend) {
    const int64_t from = e.addend_period ? static_cast<unsigned>(row) % e.addend_period : row;
    if (e.first_row && from == 0) v = sum_of(v, load_columns(e.first_row + column, count, e.vectors));
    v = sum_of(v, load_columns(e.addend + from * e.addend_stride + column, count, e.vectors));
  }
  store_columns(e.out, e.out_bf16, row * e.out_stride + column, v, count, e.vectors);
}

}  // namespace omni_id::cuda
