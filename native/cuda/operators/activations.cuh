#pragma once

#include "cuda/primitives.cuh"

// Activations and their derivatives as the operators' epilogues compute them, in f32.
namespace omni_id::cuda {

enum class Activation { none, gelu, quick_gelu };

template <Activation activation>
__device__ __forceinline__ float activate(float x) {
  if constexpr (activation == Activation::gelu) return 0.5f * x * erfcf(-0.70710678f * x);
  if constexpr (activation == Activation::quick_gelu) return x / (1.0f + expf(-1.702f * x));
  return x;
}

template <Activation activation>
__device__ __forceinline__ float derivative(float x) {
  if constexpr (activation == Activation::gelu) {
    return 0.5f * erfcf(-0.70710678f * x) + x * 0.39894228f * expf(-0.5f * x * x);
  }
  if constexpr (activation == Activation::quick_gelu) {
    const float s = 1.0f / (1.0f + expf(-1.702f * x));
    return s + 1.702f * x * s * (1.0f - s);
  }
  return 1.0f;
}

}  // namespace omni_id::cuda
