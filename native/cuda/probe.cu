#include "cuda/probe.h"

namespace omni_id::cuda {

namespace {

__global__ void probe_kernel() {}

}  // namespace

cudaError_t load_probe() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, probe_kernel);
}

}  // namespace omni_id::cuda
