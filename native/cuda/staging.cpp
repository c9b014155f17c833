#include "cuda/staging.h"

#include <algorithm>

#include "base/error.h"
#include "base/tensor.h"

namespace omni_id::cuda {

namespace {

constexpr size_t kMostFree = 8;  // pieces kept while nobody uses them

}  // namespace

struct Staging::Piece {
  explicit Piece(int device) : under_way(device), memory(allocate_pinned(kPieceBytes)) {}
  ~Piece() { release_pinned(memory); }
  Piece(const Piece&) = delete;
  Piece& operator=(const Piece&) = delete;

  Event under_way;  // the last copy from or to it
  std::byte* memory;
};

Staging::Staging(int device) : device_(device) {}
Staging::~Staging() = default;

// A piece while it is used. It goes back when no copy uses it any more, also where an exception ends the transfer.
class Staging::Lease {
 public:
  explicit Lease(Staging& staging) : staging_(staging) {
    {
      const std::lock_guard lock(staging_.mutex_);
      if (!staging_.free_.empty()) {
        piece_ = std::move(staging_.free_.back());
        staging_.free_.pop_back();
      }
    }
    if (!piece_) piece_ = std::make_unique<Piece>(staging_.device_);
  }
  ~Lease() {
    try {
      piece_->under_way.synchronize();
    } catch (const EngineError&) {
      // Whoever waits for the transfer is told.
    }
    const std::lock_guard lock(staging_.mutex_);
    if (staging_.free_.size() < kMostFree) staging_.free_.push_back(std::move(piece_));
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  Piece* operator->() { return piece_.get(); }

 private:
  Staging& staging_;
  std::unique_ptr<Piece> piece_;
};

void Staging::upload(const Stream& stream, std::byte* to, size_t bytes, const Fill& fill) {
  if (bytes == 0) return;
  std::unique_ptr<Lease> pieces[2];
  for (size_t offset = 0, i = 0; offset < bytes; offset += kPieceBytes, i ^= 1) {
    if (!pieces[i]) pieces[i] = std::make_unique<Lease>(*this);
    Lease& piece = *pieces[i];
    const size_t count = std::min(kPieceBytes, bytes - offset);
    piece->under_way.synchronize();
    fill(offset, count, piece->memory);
    copy_to_device(stream, to + offset, piece->memory, count);
    piece->under_way.record(stream);
  }
  for (const auto& piece : pieces) {
    if (piece) (*piece)->under_way.synchronize();
  }
}

void Staging::download(const Stream& stream, void* to, const std::byte* from, size_t bytes) {
  if (bytes == 0) return;
  struct Part {
    std::unique_ptr<Lease> piece;
    size_t offset = 0, bytes = 0;
  } parts[2];
  const auto take_over = [&](Part& part) {
    if (part.bytes == 0) return;
    (*part.piece)->under_way.synchronize();
    copy_bytes(static_cast<std::byte*>(to) + part.offset, (*part.piece)->memory, part.bytes);
    part.bytes = 0;
  };
  size_t i = 0;
  for (size_t offset = 0; offset < bytes; offset += kPieceBytes, i ^= 1) {
    Part& part = parts[i];
    if (!part.piece) part.piece = std::make_unique<Lease>(*this);
    take_over(part);
    part.offset = offset;
    part.bytes = std::min(kPieceBytes, bytes - offset);
    copy_to_host(stream, (*part.piece)->memory, from + offset, part.bytes);
    (*part.piece)->under_way.record(stream);
  }
  take_over(parts[i]);
  take_over(parts[i ^ 1]);
}

}  // namespace omni_id::cuda
