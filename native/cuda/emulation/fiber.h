#pragma once

// Switching between stacks, on x86-64: the registers that a function must preserve go onto the stack that is left, and come
// from the one that is entered. A tenth of what swapcontext takes, which calls the kernel for a signal mask that nobody
// changes.

#include <cstddef>
#include <cstdint>

#ifndef __x86_64__
#error "the CUDA emulation is for x86-64"
#endif

namespace omni_id::emulation {

extern "C" void omni_id_switch_stack(void** save_to, void* enter);

// A stack pointer from which omni_id_switch_stack enters `entry`, which must not return.
inline void* prepare_stack(std::byte* stack_end, void (*entry)()) {
  auto* top = reinterpret_cast<uint64_t*>(reinterpret_cast<uintptr_t>(stack_end) & ~uintptr_t{15});
  *--top = 0;  // where entry would return to
  *--top = reinterpret_cast<uint64_t>(entry);
  for (int i = 0; i < 6; ++i) *--top = 0;  // rbp, rbx, r12 to r15
  return top;
}

}  // namespace omni_id::emulation
