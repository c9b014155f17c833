#pragma once

#include <cstdint>

#include "cuda/runtime.h"

// Random numbers in device memory, which depend on nothing but seed, stream and place.
namespace omni_id::cuda {

enum class Distribution { uniform, normal };  // over [0, 1); with mean 0 and variance 1

// to[i], `count` numbers: numbers first + i of the stream `random_stream` of `seed`, four to a counter of Philox, as
// WeightStore::set_normal draws them. `first` is a multiple of 4, so that pieces of a tensor may be filled on their own.
void fill_random(const Stream& stream, float* to, int64_t count, Distribution distribution, uint64_t seed,
                 uint64_t random_stream, uint64_t first = 0);

}  // namespace omni_id::cuda
