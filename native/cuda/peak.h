#pragma once

#include "runtime/device.h"

namespace omni_id {

class CudaDevice;

namespace cuda {

// See Device::measure_peak; 0 for an emulated device, on which the kernels run once, for what they touch.
double measure_peak(CudaDevice& device, Peak what, double seconds);

}  // namespace cuda

}  // namespace omni_id
