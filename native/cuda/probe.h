#pragma once

#include <cuda_runtime.h>

namespace omni_id::cuda {

// Loads a kernel that does nothing on the current device. All kernels are compiled for the same architectures: what keeps this
// one from being loaded keeps all.
cudaError_t load_probe();

}  // namespace omni_id::cuda
