#pragma once

#include <atomic>
#include <cstddef>

#include "runtime/device.h"

namespace omni_id {

// The bytes that a device has given out, and the most at once. From any thread.
class MemoryAccount {
 public:
  void add(size_t bytes) {
    const size_t now = current_.fetch_add(bytes) + bytes;
    size_t seen = peak_.load();
    while (now > seen && !peak_.compare_exchange_weak(seen, now)) {
    }
  }
  void subtract(size_t bytes) { current_ -= bytes; }
  DeviceMemory read() const { return {current_.load(), peak_.load()}; }

 private:
  std::atomic<size_t> current_{0}, peak_{0};
};

}  // namespace omni_id
