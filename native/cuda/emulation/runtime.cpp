// The CUDA runtime of the emulation: streams whose work runs only when the host waits for it, and in an order drawn from a seed
// wherever nothing orders it, so that a missing wait shows.
#include "cuda/runtime.h"

#include <cstring>
#include <deque>
#include <mutex>
#include <random>
#include <set>

#include "base/error.h"
#include "base/tensor.h"
#include "cuda/emulation/memory.h"

namespace omni_id::emulation {

namespace {

using Operation = std::function<void()>;
struct Queued;

struct Work {
  Operation run;  // null: waits for `other` to have done `count` operations
  Queued* other = nullptr;
  uint64_t count = 0;
};

// A stream's work that has not run yet.
struct Queued {
  std::deque<Work> work;
  uint64_t given = 0, done = 0;
  std::vector<Operation>* recording = nullptr;
};

// All emulated devices' streams, and the lock that makes the emulation one host thread's at a time.
struct Streams {
  std::recursive_mutex mutex;
  std::set<Queued*> all;
  std::mt19937 random{1};
  std::shared_ptr<const Regions> regions;  // of the next launches
};

Streams& streams() {
  static auto* all = new Streams;
  return *all;
}

Queued& queued(const cuda::Stream& stream) { return *static_cast<Queued*>(stream.handle()); }

void give(const cuda::Stream& stream, Operation operation) {
  const std::lock_guard lock(streams().mutex);
  Queued& queue = queued(stream);
  if (queue.recording) {
    queue.recording->push_back(std::move(operation));
    return;
  }
  ++queue.given;
  queue.work.push_back({std::move(operation), nullptr, 0});
}

// Runs one operation of some stream that has one that nothing holds back.
void run_one() {
  Streams& s = streams();
  std::vector<Queued*> able;
  for (Queued* queue : s.all) {
    while (!queue->work.empty() && !queue->work.front().run &&
           (!s.all.count(queue->work.front().other) || queue->work.front().other->done >= queue->work.front().count)) {
      queue->work.pop_front();
    }
    if (!queue->work.empty() && queue->work.front().run) able.push_back(queue);
  }
  if (able.empty()) throw EngineError(kDevice, "emulated streams wait for each other for ever");
  Queued* chosen = able[s.random() % able.size()];
  const Operation run = std::move(chosen->work.front().run);
  chosen->work.pop_front();
  ++chosen->done;
  run();
}

void drain(Queued& queue) {
  try {
    while (!queue.work.empty()) run_one();
  } catch (...) {
    // As after a real fault, what was queued behind it is lost.
    for (Queued* each : streams().all) {
      each->done = each->given;
      each->work.clear();
    }
    throw;
  }
}

}  // namespace

void enqueue(const cuda::Stream& stream, Launch launch, std::shared_ptr<const void> arguments, size_t argument_bytes,
             Body body) {
  std::shared_ptr<const Regions> regions;
  {
    const std::lock_guard lock(streams().mutex);
    regions = streams().regions;
  }
  give(stream, [launch = std::move(launch), arguments = std::move(arguments), argument_bytes, body, regions] {
    begin_launch(regions, arguments.get(), argument_bytes);
    execute(launch, arguments.get(), body);
  });
}

}  // namespace omni_id::emulation

namespace omni_id::cuda {

using namespace emulation;

Devices find_devices() {
  DeviceProperties device;
  device.compute_capability = architecture();
  device.name = "emulation of compute capability " + std::to_string(device.compute_capability / 10) + "." +
                std::to_string(device.compute_capability % 10);
  device.multiprocessors = 4;
  device.memory_bytes = device_memory_limit();
  device.shared_bytes_per_block = largest_shared_bytes(device.compute_capability);
  return {{device}, {}};
}

bool emulated() { return true; }

Stream::Stream(int device) : device_(device), handle_(new Queued) {
  const std::lock_guard lock(streams().mutex);
  streams().all.insert(static_cast<Queued*>(handle_));
}

Stream::~Stream() {
  const std::lock_guard lock(streams().mutex);
  auto* queue = static_cast<Queued*>(handle_);
  try {
    drain(*queue);
  } catch (const EngineError&) {
    // Whoever wanted the results has asked before.
  }
  streams().all.erase(queue);
  delete queue;
}

void Stream::synchronize() const {
  const std::lock_guard lock(streams().mutex);
  drain(queued(*this));
}

void Stream::wait_for(const Stream& other) const {
  const std::lock_guard lock(streams().mutex);
  Queued& mine = queued(*this);
  mine.work.push_back({nullptr, &queued(other), queued(other).given});
}

std::byte* allocate(int, size_t bytes) { return allocate_device_memory(bytes); }

void release(int, std::byte* memory) noexcept {
  const std::lock_guard lock(streams().mutex);
  try {
    for (Queued* queue : streams().all) drain(*queue);
  } catch (const EngineError&) {
  }
  release_device_memory(memory);
}

std::byte* allocate_pinned(size_t bytes) { return new std::byte[bytes]; }
void release_pinned(std::byte* memory) noexcept { delete[] memory; }

void copy_to_device(const Stream& stream, std::byte* to, const void* from, size_t bytes) {
  if (!is_device_memory(to, bytes)) throw EngineError(kDevice, "a copy to what is not device memory");
  give(stream, [=] { copy_bytes(to, from, bytes); });
}

void copy_to_host(const Stream& stream, void* to, const std::byte* from, size_t bytes) {
  if (!is_device_memory(from, bytes)) throw EngineError(kDevice, "a copy from what is not device memory");
  give(stream, [=] { copy_bytes(to, from, bytes); });
}

void copy_on_device(const Stream& stream, std::byte* to, const std::byte* from, size_t bytes) {
  if (!is_device_memory(to, bytes) || !is_device_memory(from, bytes)) {
    throw EngineError(kDevice, "a copy between what is not device memory");
  }
  give(stream, [=] { copy_bytes(to, from, bytes); });
}

void fill_zeros(const Stream& stream, std::byte* to, size_t bytes) {
  if (!is_device_memory(to, bytes)) throw EngineError(kDevice, "zeros for what is not device memory");
  give(stream, [=] {
    if (bytes > 0) std::memset(to, 0, bytes);
  });
}

Recording::Recording(const Stream& stream, const std::function<void()>& body) {
  const std::lock_guard lock(streams().mutex);
  auto operations = std::make_unique<std::vector<std::function<void()>>>();
  Queued& queue = queued(stream);
  queue.recording = operations.get();
  try {
    body();
  } catch (...) {
    queue.recording = nullptr;
    throw;
  }
  queue.recording = nullptr;
  handle_ = operations.release();
}

Recording::~Recording() { delete static_cast<std::vector<std::function<void()>>*>(handle_); }

void Recording::launch(const Stream& stream) const {
  for (const auto& operation : *static_cast<std::vector<std::function<void()>>*>(handle_)) give(stream, operation);
}

void declare_regions(const std::string& kernel, std::vector<Region> regions) {
  for (Region& region : regions) region.name = kernel + "'s " + region.name;
  const std::lock_guard lock(streams().mutex);
  streams().regions = regions.empty() ? nullptr : std::make_shared<const Regions>(std::move(regions));
}

}  // namespace omni_id::cuda
