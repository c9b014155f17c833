#pragma once

#include <string>
#include <vector>

#include "cpu/kernels/kernels.h"

namespace omni_id {

// The instruction sets that this binary has kernels for and this processor (and its operating system) runs, best first.
// "portable" is always the last.
std::vector<std::string> available_isas();

// The kernels of one instruction set; an empty name takes OMNI_ID_ISA from the environment, or the best there is.
// Throws ERR_INVALID_ARGUMENT for an unknown name, ERR_DEVICE_UNAVAILABLE for one that this processor lacks.
const cpu::KernelTable& kernels_for(const std::string& isa);

// The processor's own name ("AMD EPYC …"), or its architecture where the system does not tell.
std::string processor_name();

}  // namespace omni_id
