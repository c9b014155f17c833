#pragma once

// Every load and store of a kernel, judged. The kernels' sources are compiled with -fsanitize=thread, which calls a function
// for each access to memory that is not a thread's own; these functions are ours (instrumentation.cpp), not ThreadSanitizer's.
//
// - Global memory: an access must lie within the regions that were declared for the launch (a kernel's operands), and where
//   none were, within one allocation; writes only where a region is writable.
// - Shared memory: within the block's; what nobody has written yet must not be read. It is filled with NaN at a block's start.
// - Alignment: every access to its size, up to 16 bytes.
// - Races, on both kinds: two accesses by different threads to the same bytes, one of them a write, of which neither happens
//   before the other. Barriers are what orders threads: those of one block by __syncthreads, those of one warp by __syncwarp
//   too, those of different blocks of a launch by nothing. Each two bytes remember their last writer and readers and how many
//   barriers these had passed.
// - cp.async: its destination belongs to the copy from its start to the wait that ends it, at which the data arrive. Any access
//   between is a finding, and so is a copy onto what others may still be reading.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cuda/emulation/machine.h"
#include "cuda/runtime.h"

namespace omni_id::emulation {

// Device allocations. Throws ERR_OUT_OF_MEMORY above the limit, OMNI_ID_EMULATED_MEMORY (bytes; 16 GiB).
std::byte* allocate_device_memory(size_t bytes);
void release_device_memory(std::byte* memory) noexcept;
size_t device_memory_limit();
// Whether the bytes lie within one allocation.
bool is_device_memory(const std::byte* memory, size_t bytes);

using Regions = std::vector<cuda::Region>;

// More than any block's on any architecture: addresses this far above its beginning are meant for it.
constexpr size_t kMostSharedBytes = size_t{232} << 10;
// The block's shared memory from now on: filled with NaN, unwritten.
void begin_block(std::byte* shared, size_t bytes);
// More of it, for a static array.
void extend_block(size_t offset, size_t bytes);
// What a launch may touch: its regions, or all allocations when there are none, and its parameters.
void begin_launch(std::shared_ptr<const Regions> regions, const void* parameters, size_t parameter_bytes);

// An access by the running thread, from a primitive. `at` is found by the return address where it is not given.
void access(const void* address, size_t bytes, bool write, Place at = {});

// Copies of the running thread.
void start_copy(std::byte* shared, const std::byte* global, size_t bytes, size_t valid, Place at);
void commit_copies();
void wait_for_copies(size_t pending);
// At a thread's end: copies that were never waited for are a finding.
void end_thread();

}  // namespace omni_id::emulation
