#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/runtime.h"

namespace omni_id::cuda {

// Copies between the host and a device by way of page-locked memory: at the full rate of the bus, and beside kernels. Pieces of
// kPieceBytes are kept and used again; what is longer goes through two of them in turn, so that one is filled while the other
// is on its way. From any thread.
class Staging {
 public:
  static constexpr size_t kPieceBytes = size_t{4} << 20;

  explicit Staging(int device);
  ~Staging();

  // fill(offset, bytes, to): bytes [offset, offset + bytes) of what goes to the device; called on this thread, in order.
  using Fill = std::function<void(size_t offset, size_t bytes, std::byte* to)>;
  // Return when all is there.
  void upload(const Stream& stream, std::byte* to, size_t bytes, const Fill& fill);
  void download(const Stream& stream, void* to, const std::byte* from, size_t bytes);

 private:
  struct Piece;
  class Lease;

  int device_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Piece>> free_;
};

}  // namespace omni_id::cuda
