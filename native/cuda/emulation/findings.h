#pragma once

#include <string>

#include "cuda/emulation/execution.h"
#include "cuda/emulation/machine.h"

namespace omni_id::emulation {

// "file:line", without folders.
std::string place_text(Place at);
// The place in a kernel's source that called the function that called this one, from the debug information; empty when it has
// none.
std::string calling_place();
// A finding in one line: kernel, block, thread, place, and what is wrong.
std::string finding_text(const Launch& launch, uint3 block, const uint3* thread, const std::string& what, Place at);

}  // namespace omni_id::emulation
