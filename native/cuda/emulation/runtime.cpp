// The CUDA runtime of the emulation: streams whose work runs only when the host waits for it, and in an order drawn from a seed
// wherever nothing orders it, so that a missing wait shows.
#include "cuda/runtime.h"

#include <cstdlib>
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

// A stream's work that has not run yet.
struct Queued {
  std::deque<Operation> work;
  uint64_t given = 0, done = 0;
  std::vector<Operation>* recording = nullptr;
};

// What an event remembers.
struct Mark {
  Queued* queue = nullptr;
  uint64_t count = 0;
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

// The device that the host thread has made its own. The first one is everybody's, as with CUDA.
thread_local int current_device = 0;

Queued& queued(const cuda::Stream& stream) { return *static_cast<Queued*>(stream.handle()); }

// CUDA refuses to wait for a stream that is recorded.
void check_not_recorded(const Queued& queue) {
  if (queue.recording) throw EngineError(kDevice, "a stream is waited for, or an event put into it, while it is recorded");
}

void check_allocated(const std::byte* memory, size_t bytes, const char* what) {
  if (!is_device_memory(memory, bytes)) {
    throw EngineError(kDevice, std::string(what) + " is not device memory, or is no more when its turn has come");
  }
}

void give(const cuda::Stream& stream, Operation operation) {
  const std::lock_guard lock(streams().mutex);
  Queued& queue = queued(stream);
  if (queue.recording) {
    queue.recording->push_back(std::move(operation));
    return;
  }
  ++queue.given;
  queue.work.push_back(std::move(operation));
}

// Runs the next operation of some stream that has one.
void run_one() {
  Streams& s = streams();
  std::vector<Queued*> able;
  for (Queued* queue : s.all) {
    if (!queue->work.empty()) able.push_back(queue);
  }
  Queued* chosen = able[s.random() % able.size()];
  const Operation run = std::move(chosen->work.front());
  chosen->work.pop_front();
  ++chosen->done;
  run();
}

// Until the queue's first `count` operations are done, all of them without.
void drain(Queued& queue, uint64_t count = UINT64_MAX) {
  try {
    while (!queue.work.empty() && queue.done < count) run_one();
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
  if (stream.device() != current_device) {
    throw EngineError(kDevice, "a kernel for a stream of device " + std::to_string(stream.device()) + " while device " +
                                   std::to_string(current_device) + " is the thread's");
  }
  std::shared_ptr<const Regions> regions;
  {
    const std::lock_guard lock(streams().mutex);
    regions = streams().regions;
  }
  give(stream, [launch = std::move(launch), arguments = std::move(arguments), argument_bytes, body, regions] {
    if (regions) {
      for (const cuda::Region& region : *regions) {
        check_allocated(region.data, (region.rows - 1) * region.pitch_bytes + region.row_bytes, region.name.c_str());
      }
    }
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
  const char* count = std::getenv("OMNI_ID_EMULATED_DEVICES");
  return {std::vector<DeviceProperties>(count && *count ? static_cast<size_t>(std::atoi(count)) : 1, device), {}};
}

bool emulated() { return true; }

void use_device(int device) { current_device = device; }

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
  check_not_recorded(queued(*this));
  drain(queued(*this));
}

Event::Event(int, Waits) : handle_(new Mark) {}

Event::~Event() { delete static_cast<Mark*>(handle_); }

void Event::record(const Stream& stream) {
  const std::lock_guard lock(streams().mutex);
  check_not_recorded(queued(stream));
  *static_cast<Mark*>(handle_) = {&queued(stream), queued(stream).given};
}

void Event::synchronize() const {
  const std::lock_guard lock(streams().mutex);
  const Mark& mark = *static_cast<Mark*>(handle_);
  if (!mark.queue || !streams().all.count(mark.queue)) return;
  check_not_recorded(*mark.queue);
  drain(*mark.queue, mark.count);
}

std::byte* allocate(const Stream&, size_t bytes) { return allocate_device_memory(bytes); }

// Without waiting for anybody: work that is still to come and uses it is a finding.
void release(const Stream&, std::byte* memory) noexcept {
  const std::lock_guard lock(streams().mutex);
  release_device_memory(memory);
}

std::byte* allocate_pinned(size_t bytes) { return new std::byte[bytes]; }
void release_pinned(std::byte* memory) noexcept { delete[] memory; }

void copy_to_device(const Stream& stream, std::byte* to, const void* from, size_t bytes) {
  give(stream, [=] {
    check_allocated(to, bytes, "what is copied to");
    copy_bytes(to, from, bytes);
  });
}

void copy_to_host(const Stream& stream, void* to, const std::byte* from, size_t bytes) {
  give(stream, [=] {
    check_allocated(from, bytes, "what is copied");
    copy_bytes(to, from, bytes);
  });
}

void fill_zeros(const Stream& stream, std::byte* to, size_t bytes) {
  give(stream, [=] {
    check_allocated(to, bytes, "what is set to zero");
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
