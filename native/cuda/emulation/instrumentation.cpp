// What -fsanitize=thread makes the kernels' code call at every access to memory.
#include "cuda/emulation/memory.h"

extern "C" {

#define OMNI_ID_ACCESS(size)                                                                                              \
  __attribute__((visibility("hidden"))) void __tsan_read##size(void* at) { omni_id::emulation::access(at, size, false); } \
  __attribute__((visibility("hidden"))) void __tsan_write##size(void* at) { omni_id::emulation::access(at, size, true); }
OMNI_ID_ACCESS(1)
OMNI_ID_ACCESS(2)
OMNI_ID_ACCESS(4)
OMNI_ID_ACCESS(8)
OMNI_ID_ACCESS(16)
#undef OMNI_ID_ACCESS
#define OMNI_ID_ACCESS(size)                                                          \
  __attribute__((visibility("hidden"))) void __tsan_unaligned_read##size(void* at) {  \
    omni_id::emulation::access(at, size, false);                                      \
  }                                                                                   \
  __attribute__((visibility("hidden"))) void __tsan_unaligned_write##size(void* at) { \
    omni_id::emulation::access(at, size, true);                                       \
  }
OMNI_ID_ACCESS(2)
OMNI_ID_ACCESS(4)
OMNI_ID_ACCESS(8)
OMNI_ID_ACCESS(16)
#undef OMNI_ID_ACCESS

__attribute__((visibility("hidden"))) void __tsan_read_range(void* at, unsigned long bytes) {
  for (unsigned long i = 0; i < bytes; i += 2) {
    omni_id::emulation::access(static_cast<char*>(at) + i, bytes - i < 2 ? 1 : 2, false);
  }
}
__attribute__((visibility("hidden"))) void __tsan_write_range(void* at, unsigned long bytes) {
  for (unsigned long i = 0; i < bytes; i += 2) {
    omni_id::emulation::access(static_cast<char*>(at) + i, bytes - i < 2 ? 1 : 2, true);
  }
}
__attribute__((visibility("hidden"))) void __tsan_vptr_update(void*, void*) {}
__attribute__((visibility("hidden"))) void __tsan_vptr_read(void*) {}
__attribute__((visibility("hidden"))) void __tsan_init() {}
__attribute__((visibility("hidden"))) void __tsan_func_entry(void*) {}
__attribute__((visibility("hidden"))) void __tsan_func_exit() {}
// Reference counts and guards of the host code in the kernels' files.
__attribute__((visibility("hidden"))) int __tsan_atomic32_fetch_add(volatile int* at, int value, int) {
  return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST);
}
__attribute__((visibility("hidden"))) int __tsan_atomic32_load(const volatile int* at, int) {
  return __atomic_load_n(at, __ATOMIC_SEQ_CST);
}
__attribute__((visibility("hidden"))) char __tsan_atomic8_load(const volatile char* at, int) {
  return __atomic_load_n(at, __ATOMIC_SEQ_CST);
}
}
