#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

// What the backend asks of the CUDA runtime, and no more: runtime.cpp answers it with the CUDA runtime,
// emulation/runtime.cpp with the emulation. Errors are EngineErrors: ERR_OUT_OF_MEMORY, ERR_DEVICE_UNAVAILABLE, and ERR_DEVICE
// for a kernel that failed.
namespace omni_id::cuda {

struct DeviceProperties {
  std::string name;
  int compute_capability = 0;  // 80 for 8.0
  int multiprocessors = 0;
  size_t memory_bytes = 0;
  std::string reason;  // why it cannot be used, or nothing
};

// The devices there are, by the runtime's own numbers; when there are none, `reason` says why: no driver, a driver that is too
// old and which one is needed, no device.
struct Devices {
  std::vector<DeviceProperties> found;
  std::string reason;
};
Devices find_devices();
bool emulated();

// Makes the device the calling thread's, which launches and attributes of kernels go to.
void use_device(int device);

// Work that is done in order, beside the host's. Not copied; `handle` is the runtime's own.
class Stream {
 public:
  explicit Stream(int device);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Waits for all work, spinning; throws what failed in it.
  void synchronize() const;
  void* handle() const { return handle_; }
  int device() const { return device_; }

 private:
  int device_;
  void* handle_ = nullptr;
};

// How a thread waits: spinning on a core of its own, and there within a microsecond, or asleep until it is woken, some ten or
// more later.
enum class Waits { spinning, asleep };

// A place in a stream's work.
class Event {
 public:
  explicit Event(int device, Waits waits = Waits::spinning);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  // After all that the stream was given until now.
  void record(const Stream& stream);
  // Waits until the work before the place is done, at once when there is none; throws what failed in it.
  void synchronize() const;

 private:
  void* handle_ = nullptr;
};

// Memory of a device, 256-byte aligned, in the order of the stream's work, which is no other than this. Throws
// ERR_OUT_OF_MEMORY. What is released goes to the next that asks without waiting for anything: no work may use it any more.
// It is kept until the device's last buffer goes.
std::byte* allocate(const Stream& stream, size_t bytes);
void release(const Stream& stream, std::byte* memory) noexcept;
// Page-locked memory of the host, for copies beside other work. Throws ERR_OUT_OF_MEMORY.
std::byte* allocate_pinned(size_t bytes);
void release_pinned(std::byte* memory) noexcept;

// Copies return before they are done when the host's memory is page-locked.
void copy_to_device(const Stream& stream, std::byte* to, const void* from, size_t bytes);
void copy_to_host(const Stream& stream, void* to, const std::byte* from, size_t bytes);
void fill_zeros(const Stream& stream, std::byte* to, size_t bytes);

// The work that `body` gives to the stream, recorded once to be repeated with one call.
class Recording {
 public:
  Recording(const Stream& stream, const std::function<void()>& body);
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  void launch(const Stream& stream) const;

 private:
  void* handle_ = nullptr;
};

// The memory that the kernels launched from now on may touch, for the emulation, which reports any other access: rows of
// `row_bytes`, `pitch_bytes` apart. Does nothing with a real device.
struct Region {
  const std::byte* data = nullptr;
  size_t row_bytes = 0, pitch_bytes = 0, rows = 0;
  bool writable = false;
  std::string name;
};
void declare_regions(const std::string& kernel, std::vector<Region> regions);

}  // namespace omni_id::cuda
