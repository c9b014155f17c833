#pragma once

#include <atomic>
#include <functional>
#include <limits>
#include <memory>
#include <string>

#include "base/tensor.h"
#include "graph/operators.h"
#include "image/clip_preprocess.h"
#include "runtime/queue.h"
#include "weights/weight_store.h"

namespace omni_id {

// Memory on a device. Freed with the last reference.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual std::byte* data() = 0;  // a device address
  size_t bytes() const { return bytes_; }

 protected:
  explicit Buffer(size_t bytes) : bytes_(bytes) {}

 private:
  size_t bytes_;
};

// What a device can do at most, by measuring it: arithmetic in registers (flop/s), or reading its memory (bytes/s).
enum class Peak { f32, bf16, memory_read };

// Work that a device repeats with one call: of a plan whose kernels take less time than to give them to the device.
class RecordedWork {
 public:
  virtual ~RecordedWork() = default;
  virtual void repeat() = 0;  // puts it into the device's queue
};

struct DeviceMemory {
  size_t current_bytes = 0;
  size_t peak_bytes = 0;
};

// What a backend offers. Operators are bound to it through their row in the operator table; everything else that a plan needs
// of a device is here. All is called from the device's queue thread, except where said and but for what describes the device
// and its queues.
class Device {
 public:
  virtual ~Device() = default;

  virtual const char* kind() const = 0;             // "cpu"
  virtual std::string instruction_set() const = 0;  // "avx512bf16"
  virtual int threads() const = 0;

  // From any thread. Throws ERR_OUT_OF_MEMORY.
  virtual std::shared_ptr<Buffer> allocate(size_t bytes) = 0;
  // From any thread, for buffers that no queued run uses.
  virtual void write(Buffer& buffer, size_t offset, const void* from, size_t bytes) = 0;
  virtual void read(Buffer& buffer, size_t offset, void* to, size_t bytes) = 0;

  // A photo to the model's pixels, f32[3, crop, crop] from `first_element` of `to` on; what check_image and check_preprocess
  // ask for holds. On the side queue's thread.
  virtual void preprocess(const RgbImage& image, const ClipPreprocess& settings, Buffer& to, size_t first_element) = 0;

  // The memory that all plans of the device place their intermediate values in: runs do not overlap. Grows to the largest plan.
  virtual std::byte* arena(size_t bytes) {
    if (!arena_ || arena_->bytes() < bytes) {
      arena_.reset();  // the old one first: both are not needed at once
      arena_ = allocate(bytes);
    }
    return arena_->data();
  }

  // The concatenation of `names` along the first dimension in the form that `role` asks for, in `type.dtype` for matrices and
  // in f32 otherwise. Made once per store. Throws ERR_WEIGHTS when it has not the shape `type` says.
  virtual PackedWeight prepare(WeightStore& weights, const std::vector<std::string>& names, const TensorType& type,
                               InputRole role) = 0;
  virtual std::unique_ptr<Kernel> bind(const OperatorRow& row, const Arguments& arguments) = 0;
  // Runs body(i) for all i in [0, tasks) on the device's host threads.
  virtual void parallel_for(int64_t tasks, const std::function<void(int64_t)>& body) = 0;

  // How much of a plan the device is given at a time, in flops (plan.cpp says what a byte counts): between such pieces a run
  // hears that it is cancelled. All of it where operators are done when they return.
  virtual double piece_of_work() const { return std::numeric_limits<double>::infinity(); }
  // After a piece, before the next: waits until the one before it is done.
  virtual void end_piece() {}
  // Whether `record` is worth its while.
  virtual bool records() const { return false; }
  // What `body` gives to the device, recorded without being done; null where the device cannot.
  virtual std::unique_ptr<RecordedWork> record(const std::function<void()>&) { return nullptr; }
  // Waits for what runs have put into the device's queue, and throws what went wrong in it. Kernels of the CPU are done when
  // they return.
  virtual void synchronize() {}
  // Waits for what a run that ends early has put into the queue, and forgets what it complained of.
  virtual void abandon() noexcept {}

  // The best of several rounds on all of the device's threads, `seconds` in all; 0 for what the device has no instructions for.
  virtual double measure_peak(Peak what, double seconds) = 0;

  virtual DeviceMemory memory() const = 0;  // from any thread
  Queue& queue() { return queue_; }
  // For work that needs nothing of the device but memory that no queued run uses (preparing the next batch's pixels): it goes
  // on beside the runs.
  Queue& side_queue() { return side_queue_; }

 private:
  std::shared_ptr<Buffer> arena_;
  Queue queue_, side_queue_;
};

// The version of the layouts that `prepare` makes; part of what binds a packed cache to this engine.
inline constexpr const char* kPackedLayout = "panels32-1";

}  // namespace omni_id
