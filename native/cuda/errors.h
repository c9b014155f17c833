#pragma once

#include <cuda_runtime.h>

namespace omni_id::cuda {

// Throws EngineError ERR_OUT_OF_MEMORY or ERR_DEVICE with CUDA's own name of the error, and what was being done.
void check(cudaError_t error, const char* what);

}  // namespace omni_id::cuda
