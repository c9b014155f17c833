#pragma once

// CUDA's execution model on the host. A launch runs its blocks one after the other, in an order drawn from a seed; the threads
// of a block are fibers, each with its own stack, that run until they must wait for others:
//
// - __syncthreads waits for every thread of the block. Threads that wait at different places, or for threads that have
//   ended, are a finding: the barrier diverged.
// - A warp operation (shuffle, vote, ldmatrix, mma, __syncwarp) waits for all 32 lanes, and is then done for all of them at
//   once. Lanes that meet in different operations, or that never come, are a finding.
//
// Which thread runs when is drawn anew after every barrier, so that what depends on an order shows; that it depends on one is
// found without luck, by happens-before (memory.h).
//
// A finding ends the launch: its threads are dropped where they stand, and the error reaches the host at its next
// synchronisation, as ERR_DEVICE, with kernel, block, thread, place in the source and address.
//
// The emulation is for x86-64 and for one host thread at a time.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace omni_id::cuda {
class Stream;
}

namespace omni_id::emulation {

struct Place {
  const char* file = nullptr;
  int line = 0;
};

struct Launch {
  std::string name;
  const void* kernel = nullptr;
  unsigned grid_x = 1, grid_y = 1, grid_z = 1;
  unsigned threads = 1;
  size_t shared_bytes = 0;
};

// Puts a launch into the stream. `body` is called once for every thread, with the arguments.
using Body = void (*)(const void* arguments);
void enqueue(const cuda::Stream& stream, Launch launch, std::shared_ptr<const void> arguments, size_t argument_bytes,
             Body body);
void allow_shared(const void* kernel, size_t bytes);

// What follows is called by kernels.

void* dynamic_shared();
// A launch with more dynamic shared memory, or more threads, is a finding.
void expect_dynamic_shared(size_t most);
void expect_threads(unsigned most);
// The block's array for this place in the source.
void* static_shared(Place at, size_t bytes, size_t alignment);
[[gnu::const]] int lane_index();

void synchronize_block(Place at);
int synchronize_block_or(Place at, int predicate);
void synchronize_warp(Place at, unsigned mask = 0xffffffffu);
// The bits that the lane `from` gave; a lane's own where `from` is none of 0 to 31.
unsigned shuffle_bits(Place at, unsigned mask, unsigned bits, int from);
unsigned ballot(Place at, unsigned mask, int predicate);
int atomic_or(int* at, int bits);

// The rest of the emulation.

// A warp operation: waits for the warp's 32 lanes, lets the last one call `all(slots)`, where slots[lane] is each one's `mine`,
// and returns to all of them.
void with_warp(Place at, const char* operation, unsigned mask, void* mine, void (*all)(void* const* slots));

// Ends the launch with a finding.
[[noreturn]] void report(const std::string& what, Place at = {});

// Runs one launch to its end. Throws EngineError ERR_DEVICE with the finding.
void execute(const Launch& launch, const void* arguments, Body body);

// The launch that this host thread is running, as memory.cpp sees it. Null outside of kernels.
struct Actor {
  uint32_t launch = 0, block = 0;            // numbers of
  uint16_t thread = 0, warp = 0;             // within the block
  uint32_t block_phase = 0, warp_phase = 0;  // barriers passed
};
struct Running {
  Actor actor;
  const std::byte* stack_begin = nullptr;
  const std::byte* stack_end = nullptr;
};
extern thread_local Running* running __attribute__((tls_model("initial-exec")));

// While it lives, accesses are the emulation's own and not judged: every function that kernels call begins with one, since the
// linker may take an instrumented copy of a standard library's inline function for the emulation too.
struct OwnCode {
  Running* const lane;  // whose thread it is; null outside of kernels

  OwnCode() : lane(running) { running = nullptr; }
  ~OwnCode() { running = lane; }
  OwnCode(const OwnCode&) = delete;
  OwnCode& operator=(const OwnCode&) = delete;
};

// Largest shared memory of a block on the architecture that is emulated, 8.6 unless OMNI_ID_EMULATED_ARCHITECTURE names
// another.
int architecture();
size_t largest_shared_bytes(int architecture);

}  // namespace omni_id::emulation
