#include "cuda/emulation/machine.h"

#include <cxxabi.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>

#include "base/error.h"
#include "cuda/emulation/execution.h"
#include "cuda/emulation/fiber.h"
#include "cuda/emulation/findings.h"
#include "cuda/emulation/memory.h"

asm(R"(
.text
.globl omni_id_switch_stack
.hidden omni_id_switch_stack
.type omni_id_switch_stack, @function
omni_id_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size omni_id_switch_stack, .-omni_id_switch_stack
)");

namespace omni_id::emulation {

thread_local Running* running = nullptr;

namespace {

constexpr int kLanes = 32;
constexpr unsigned kMostThreads = 1024;
constexpr size_t kStackBytes = size_t{64} << 10;
constexpr size_t kGuardBytes = 4096;  // a stack that overflows ends the process instead of its neighbour
constexpr size_t kOptInAbove = size_t{48} << 10;

enum class State { runnable, in_warp, in_block, ended };

struct Lane {
  Running running;
  void* stack_pointer = nullptr;
  State state = State::runnable;
  Place waits_at;
  const char* operation = nullptr;
  void* payload = nullptr;
};

struct Warp {
  int waiting = 0;
  uint32_t phase = 0;
};

// The stacks of a block's threads, kept from launch to launch.
class Stacks {
 public:
  std::byte* end_of(unsigned thread) {
    if (!memory_) {
      memory_ = static_cast<std::byte*>(mmap(nullptr, kMostThreads * (kStackBytes + kGuardBytes), PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      if (memory_ == MAP_FAILED) throw EngineError(kOutOfMemory, "no memory for the stacks of emulated threads");
      for (unsigned i = 0; i < kMostThreads; ++i) mprotect(memory_ + i * (kStackBytes + kGuardBytes), kGuardBytes, PROT_NONE);
    }
    return memory_ + (thread + 1) * (kStackBytes + kGuardBytes);
  }

 private:
  std::byte* memory_ = nullptr;
};

// One block on its way. There is one machine, and one launch on it at a time.
struct Machine {
  Launch launch;
  Body body = nullptr;
  const void* arguments = nullptr;
  uint3 block{};
  std::vector<Lane> lanes;
  std::vector<Warp> warps;
  std::vector<unsigned> ready;  // a stack: the last one runs next
  unsigned current = 0, ended = 0, waiting = 0;
  uint32_t block_phase = 0;
  int predicates = 0, last_predicates = 0;
  Place barrier;
  void* host_stack = nullptr;
  std::string finding;
  std::vector<std::byte> shared_memory;
  std::byte* shared = nullptr;
  size_t dynamic_bytes = 0, static_bytes = 0;
  size_t shared_end = 0;                                        // of the last array, which lie further apart than they must
  std::map<std::pair<std::string, int>, size_t> static_arrays;  // place → offset
  std::mt19937 random{20241209};
  Stacks stacks;
};

Machine& machine() {
  static Machine* machine = new Machine;  // never destroyed: a thread may outlive static destructors
  return *machine;
}

std::map<const void*, size_t>& allowed_shared() {
  static auto* allowed = new std::map<const void*, size_t>;
  return *allowed;
}

// Leaves the current lane, for the next that can run, or for the host when none can.
void switch_away(void** save_to) {
  Machine& m = machine();
  if (m.ready.empty() || !m.finding.empty()) {
    running = nullptr;
    omni_id_switch_stack(save_to, m.host_stack);
  } else {
    m.current = m.ready.back();
    m.ready.pop_back();
    Lane& next = m.lanes[m.current];
    running = &next.running;
    if (&next.stack_pointer == save_to) return;  // its own turn again
    omni_id_switch_stack(save_to, next.stack_pointer);
  }
}

void wait_as(State state, Place at) {
  Machine& m = machine();
  Lane& lane = m.lanes[m.current];
  lane.state = state;
  lane.waits_at = at;
  switch_away(&lane.stack_pointer);
}

void lane_main() {
  Machine& m = machine();
  m.body(m.arguments);
  end_thread();
  Lane& lane = m.lanes[m.current];
  lane.state = State::ended;
  ++m.ended;
  void* nowhere;
  switch_away(&nowhere);
  std::abort();  // nobody returns to a thread that has ended
}

// Everyone may run again, in an order drawn anew: warps among each other, and lanes within each.
void release_block() {
  Machine& m = machine();
  std::vector<unsigned> order(m.warps.size());
  for (unsigned i = 0; i < order.size(); ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), m.random);
  const bool backwards = m.random() & 1;
  for (const unsigned warp : order) {
    for (unsigned i = 0; i < kLanes; ++i) {
      const unsigned lane = warp * kLanes + (backwards ? kLanes - 1 - i : i);
      if (m.lanes[lane].state == State::ended) continue;
      m.lanes[lane].state = State::runnable;
      m.lanes[lane].running.actor.block_phase = m.block_phase;
      m.ready.push_back(lane);
    }
  }
}

std::string describe_waiting() {
  const Machine& m = machine();
  std::map<std::string, int> waiting;
  for (const Lane& lane : m.lanes) {
    if (lane.state == State::ended) {
      ++waiting["have ended"];
    } else {
      ++waiting[std::string("wait in ") + (lane.state == State::in_block ? "__syncthreads" : lane.operation) + " at " +
                place_text(lane.waits_at)];
    }
  }
  std::string text;
  for (const auto& [what, count] : waiting) text += (text.empty() ? "" : ", ") + std::to_string(count) + " threads " + what;
  return text;
}

void run_block(uint32_t launch_number, uint32_t block_number) {
  Machine& m = machine();
  m.ended = m.waiting = 0;
  m.block_phase = 0;
  m.lanes.assign(m.launch.threads, {});
  m.warps.assign(m.launch.threads / kLanes, {});
  m.ready.clear();
  m.static_arrays.clear();
  m.static_bytes = 0;
  m.shared_end = m.dynamic_bytes;
  begin_block(m.shared, m.dynamic_bytes);
  for (unsigned i = 0; i < m.launch.threads; ++i) {
    Lane& lane = m.lanes[i];
    std::byte* end = m.stacks.end_of(i);
    lane.stack_pointer = prepare_stack(end, lane_main);
    lane.running.stack_begin = end - kStackBytes;
    lane.running.stack_end = end;
    lane.running.actor = {launch_number, block_number, static_cast<uint16_t>(i), static_cast<uint16_t>(i / kLanes), 0, 0};
  }
  release_block();
  if (m.ready.empty()) return;
  m.current = m.ready.back();
  m.ready.pop_back();
  running = &m.lanes[m.current].running;
  omni_id_switch_stack(&m.host_stack, m.lanes[m.current].stack_pointer);
  running = nullptr;
  if (m.finding.empty() && m.ended != m.launch.threads) {
    m.finding = "the threads wait for each other for ever: " + describe_waiting();
    m.finding = finding_text(m.launch, m.block, nullptr, m.finding, {});
  }
}

}  // namespace

int architecture() {
  const char* given = std::getenv("OMNI_ID_EMULATED_ARCHITECTURE");
  return given && *given ? std::atoi(given) : 86;
}

// CUDA C++ Programming Guide, table of technical specifications per compute capability.
size_t largest_shared_bytes(int architecture) {
  static const std::map<int, size_t> kilobytes = {{80, 163}, {86, 99}, {89, 99}, {90, 227}, {100, 227}, {120, 99}};
  const auto found = kilobytes.find(architecture);
  if (found == kilobytes.end()) {
    throw EngineError(kInvalidArgument, "OMNI_ID_EMULATED_ARCHITECTURE is " + std::to_string(architecture) +
                                            ", expected 80, 86, 89, 90, 100 or 120");
  }
  return found->second << 10;
}

void allow_shared(const void* kernel, size_t bytes) {
  if (bytes > largest_shared_bytes(architecture())) {
    throw EngineError(kDevice, "a kernel asks for " + std::to_string(bytes) + " bytes of shared memory, architecture " +
                                   std::to_string(architecture()) + " has " +
                                   std::to_string(largest_shared_bytes(architecture())));
  }
  size_t& allowed = allowed_shared()[kernel];
  allowed = std::max(allowed, bytes);
}

void execute(const Launch& launch, const void* arguments, Body body) {
  static uint32_t launches = 0;
  Machine& m = machine();
  m.launch = launch;
  m.body = body;
  m.arguments = arguments;
  m.finding.clear();
  const auto refuse = [&](const std::string& what) { throw EngineError(kDevice, finding_text(launch, {}, nullptr, what, {})); };
  if (launch.threads == 0 || launch.threads > kMostThreads || launch.threads % kLanes != 0) {
    refuse(std::to_string(launch.threads) + " threads in a block, expected a multiple of 32 up to 1,024");
  }
  if (launch.grid_y > 65535 || launch.grid_z > 65535 || launch.grid_x > 0x7fffffffu) {
    refuse("a grid of " + std::to_string(launch.grid_x) + " × " + std::to_string(launch.grid_y) + " × " +
           std::to_string(launch.grid_z) + " blocks, at most 2,147,483,647 × 65,535 × 65,535");
  }
  if (launch.shared_bytes > kOptInAbove && launch.shared_bytes > allowed_shared()[launch.kernel]) {
    refuse(std::to_string(launch.shared_bytes) + " bytes of shared memory, above 48 KB, without allow_shared");
  }
  if (launch.shared_bytes > largest_shared_bytes(architecture())) {
    refuse(std::to_string(launch.shared_bytes) + " bytes of shared memory, more than architecture " +
           std::to_string(architecture()) + " has");
  }
  m.dynamic_bytes = launch.shared_bytes;
  m.shared_memory.resize(kMostSharedBytes + 128);
  m.shared = m.shared_memory.data() + (128 - reinterpret_cast<uintptr_t>(m.shared_memory.data()) % 128) % 128;

  const uint32_t number = ++launches;
  const uint64_t blocks = uint64_t{launch.grid_x} * launch.grid_y * launch.grid_z;
  // Any order of blocks is as good as another.
  std::vector<uint32_t> order(blocks);
  for (uint64_t i = 0; i < blocks; ++i) order[i] = static_cast<uint32_t>(i);
  std::shuffle(order.begin(), order.end(), m.random);
  for (const uint32_t block : order) {
    m.block = {block % launch.grid_x, block / launch.grid_x % launch.grid_y, block / launch.grid_x / launch.grid_y};
    run_block(number, block);
    if (!m.finding.empty()) throw EngineError(kDevice, m.finding);
  }
}

void report(const std::string& what, Place at) {
  const OwnCode own;
  Machine& m = machine();
  const uint3 thread{m.current, 0, 0};
  m.finding = finding_text(m.launch, m.block, &thread, what, at);
  void* nowhere;
  switch_away(&nowhere);
  std::abort();  // the launch is over
}

uint3 thread_index() { return {machine().current, 0, 0}; }
uint3 block_index() { return machine().block; }
dim3 block_dimensions() { return {machine().launch.threads, 1, 1}; }
dim3 grid_dimensions() { return {machine().launch.grid_x, machine().launch.grid_y, machine().launch.grid_z}; }
int lane_index() { return static_cast<int>(machine().current % kLanes); }

void* dynamic_shared() { return machine().shared; }

void expect_dynamic_shared(size_t most) {
  const OwnCode own;
  const size_t bytes = machine().launch.shared_bytes;
  if (bytes > most) {
    report("launched with " + std::to_string(bytes) + " bytes of dynamic shared memory, and expects " + std::to_string(most));
  }
}

void expect_threads(unsigned most) {
  const OwnCode own;
  const unsigned threads = machine().launch.threads;
  if (threads > most) {
    report("launched with " + std::to_string(threads) + " threads in a block, and expects " + std::to_string(most));
  }
}

void* static_shared(Place at, size_t bytes, size_t alignment) {
  const OwnCode own;
  Machine& m = machine();
  const auto [found, is_new] = m.static_arrays.try_emplace({at.file, at.line}, 0);
  if (is_new) {
    const auto aligned = [](size_t offset, size_t to) { return (offset + to - 1) / to * to; };
    m.static_bytes = aligned(m.static_bytes, alignment) + bytes;
    const size_t together = aligned(m.static_bytes, 16) + m.dynamic_bytes;
    if (m.static_bytes > kOptInAbove)
      report(std::to_string(m.static_bytes) + " bytes of static shared memory, at most 49,152", at);
    if (together > kOptInAbove && m.dynamic_bytes > allowed_shared()[m.launch.kernel]) {
      report(std::to_string(together) + " bytes of static and dynamic shared memory, above 48 KB, without allow_shared", at);
    }
    if (together > largest_shared_bytes(architecture())) {
      report(std::to_string(together) + " bytes of shared memory, more than the architecture has", at);
    }
    // Aligned to its type and to nothing more, as a compiler may place it: never to what a vector needs by accident.
    size_t begin = aligned(m.shared_end, alignment);
    if (alignment < 16 && begin % (2 * alignment) == 0) begin += alignment;
    found->second = begin;
    m.shared_end = begin + bytes;
    extend_block(begin, bytes);
  }
  return m.shared + found->second;
}

void with_warp(Place at, const char* operation, unsigned mask, void* mine, void (*all)(void* const* slots)) {
  const OwnCode own;
  Machine& m = machine();
  Lane& lane = m.lanes[m.current];
  const unsigned first = m.current / kLanes * kLanes;
  Warp& warp = m.warps[m.current / kLanes];
  if (mask != 0xffffffffu) report(std::string(operation) + " with a mask that is not all lanes", at);
  lane.payload = mine;
  lane.operation = operation;
  for (unsigned i = first; i < first + kLanes && warp.waiting > 0; ++i) {
    const Lane& other = m.lanes[i];
    if (other.state != State::in_warp) continue;
    if (std::strcmp(other.operation, operation) != 0 || other.waits_at.line != at.line ||
        std::strcmp(other.waits_at.file, at.file) != 0) {
      report(std::string("the warp diverged: this lane is in ") + operation + " at " + place_text(at) + ", lane " +
                 std::to_string(i - first) + " in " + other.operation + " at " + place_text(other.waits_at),
             at);
    }
    break;  // those that wait already agree with each other
  }
  if (++warp.waiting < kLanes) {
    wait_as(State::in_warp, at);
    return;
  }
  warp.waiting = 0;
  std::array<void*, kLanes> slots;
  for (unsigned i = 0; i < kLanes; ++i) slots[i] = m.lanes[first + i].payload;
  all(slots.data());
  for (unsigned i = first; i < first + kLanes; ++i) {
    if (i == m.current) continue;
    m.lanes[i].state = State::runnable;
    m.ready.push_back(i);
  }
}

void synchronize_block(Place at) { synchronize_block_or(at, 0); }

int synchronize_block_or(Place at, int predicate) {
  const OwnCode own;
  Machine& m = machine();
  if (m.waiting > 0 && (m.barrier.line != at.line || std::strcmp(m.barrier.file, at.file) != 0)) {
    report("__syncthreads diverged: other threads wait at " + place_text(m.barrier), at);
  }
  m.barrier = at;
  m.predicates |= predicate != 0;
  if (++m.waiting < m.launch.threads) {
    wait_as(State::in_block, at);
    return m.last_predicates;
  }
  m.waiting = 0;
  m.last_predicates = m.predicates;
  m.predicates = 0;
  ++m.block_phase;
  // This thread goes on like the others, when its turn comes.
  Lane& lane = m.lanes[m.current];
  release_block();
  switch_away(&lane.stack_pointer);
  return m.last_predicates;
}

void synchronize_warp(Place at, unsigned mask) {
  with_warp(at, "__syncwarp", mask, nullptr, [](void* const*) {
    Machine& now = machine();
    const unsigned warp = now.current / kLanes;
    const uint32_t phase = ++now.warps[warp].phase;
    for (unsigned i = warp * kLanes; i < (warp + 1) * kLanes; ++i) now.lanes[i].running.actor.warp_phase = phase;
  });
}

unsigned shuffle_bits(Place at, unsigned mask, unsigned bits, int from) {
  struct Slot {
    unsigned bits, result;
    int from;
  } slot{bits, bits, from};
  with_warp(at, "a shuffle", mask, &slot, [](void* const* slots) {
    for (int lane = 0; lane < kLanes; ++lane) {
      Slot& mine = *static_cast<Slot*>(slots[lane]);
      if (mine.from >= 0 && mine.from < kLanes) mine.result = static_cast<Slot*>(slots[mine.from])->bits;
    }
  });
  return slot.result;
}

unsigned ballot(Place at, unsigned mask, int predicate) {
  struct Slot {
    int predicate;
    unsigned result;
  } slot{predicate, 0};
  with_warp(at, "a vote", mask, &slot, [](void* const* slots) {
    unsigned votes = 0;
    for (int lane = 0; lane < kLanes; ++lane)
      votes |= static_cast<unsigned>(static_cast<Slot*>(slots[lane])->predicate != 0) << lane;
    for (int lane = 0; lane < kLanes; ++lane) static_cast<Slot*>(slots[lane])->result = votes;
  });
  return slot.result;
}

int atomic_or(int* at, int bits) {
  const int before = *at;
  *at = before | bits;
  return before;
}

}  // namespace omni_id::emulation
