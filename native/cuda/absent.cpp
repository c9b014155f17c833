// What stands for the CUDA backend in a build without it.
#include "base/error.h"
#include "cuda/device.h"

namespace omni_id {

namespace cuda {

Devices find_devices() { return {{}, "this build has no CUDA backend: it was compiled without nvcc 12.0 or newer"}; }
bool emulated() { return false; }

}  // namespace cuda

std::shared_ptr<Device> open_cuda_device(int) {
  throw EngineError(kDeviceUnavailable, "no CUDA device: " + cuda::find_devices().reason);
}

}  // namespace omni_id
