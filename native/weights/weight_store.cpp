#include "weights/weight_store.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/float_formats.h"
#include "base/philox.h"

namespace omni_id {

std::shared_ptr<std::byte> allocate_aligned(size_t bytes) {
  const size_t rounded = (bytes + 63) / 64 * 64;
  void* memory = std::aligned_alloc(64, rounded ? rounded : 64);
  if (!memory) throw EngineError(kOutOfMemory, "no memory for " + std::to_string(bytes) + " bytes");
  return {static_cast<std::byte*>(memory), [](std::byte* p) { std::free(p); }};
}

void WeightStore::set_mapped(const std::string& name, const TensorType& type, std::shared_ptr<const MappedFile> file,
                             size_t offset) {
  const size_t bytes = type.bytes();
  if (offset > file->size() || bytes > file->size() - offset) {
    throw EngineError(kWeights, "weight " + name + " (" + to_string(type) + ") at byte " + std::to_string(offset) +
                                    " reaches past the end of its file of " + std::to_string(file->size()) + " bytes");
  }
  std::lock_guard lock(mutex_);
  tensors_[name] = {type, file->data() + offset, file, file};
}

void WeightStore::set(const std::string& name, const Shape& shape, const float* values) {
  const TensorType type{DType::f32, shape};
  auto memory = allocate_aligned(type.bytes());
  copy_bytes(memory.get(), values, type.bytes());
  std::lock_guard lock(mutex_);
  owned_bytes_ += type.bytes();
  tensors_[name] = {type, memory.get(), memory, nullptr};
}

namespace {

// FNV-1a, which turns a weight's name into its random stream.
uint64_t stream_of(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char c : name) hash = (hash ^ c) * 0x100000001b3u;
  return hash;
}

// Box-Muller in double precision, so that the rounding to f32 is the same on every libm to within rare last bits.
void normal_pair(uint32_t a, uint32_t b, double* first, double* second) {
  const double radius = std::sqrt(-2.0 * std::log((static_cast<double>(a) + 0.5) * 0x1p-32));
  const double angle = 2.0 * 3.14159265358979323846 * (static_cast<double>(b) + 0.5) * 0x1p-32;
  *first = radius * std::cos(angle);
  *second = radius * std::sin(angle);
}

// Elements of one task of a tensor: a few milliseconds' work. A multiple of the four numbers that one counter gives.
constexpr int64_t kNormalsPerTask = 1 << 16;

}  // namespace

void WeightStore::set_normal(const std::string& name, const Shape& shape, uint64_t seed, double mean, double standard_deviation,
                             const ParallelFor& parallel_for, const std::string& drawn_as) {
  const TensorType type{DType::f32, shape};
  auto memory = allocate_aligned(type.bytes());
  float* values = reinterpret_cast<float*>(memory.get());
  const int64_t n = type.elements();
  const uint64_t stream = stream_of(drawn_as.empty() ? name : drawn_as);
  const std::array<uint32_t, 2> key{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  parallel_for((n + kNormalsPerTask - 1) / kNormalsPerTask, [&](int64_t task) {
    const int64_t begin = task * kNormalsPerTask, end = std::min(n, begin + kNormalsPerTask);
    if (standard_deviation == 0.0) {
      std::fill(values + begin, values + end, static_cast<float>(mean));
      return;
    }
    for (int64_t i = begin; i < end; i += 4) {
      const uint64_t block = static_cast<uint64_t>(i) / 4;
      const auto bits = philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                                    static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                                   key);
      double normal[4];
      normal_pair(bits[0], bits[1], &normal[0], &normal[1]);
      normal_pair(bits[2], bits[3], &normal[2], &normal[3]);
      for (int64_t j = 0; j < 4 && i + j < end; ++j) {
        values[i + j] = static_cast<float>(mean + standard_deviation * normal[j]);
      }
    }
  });
  std::lock_guard lock(mutex_);
  owned_bytes_ += type.bytes();
  tensors_[name] = {type, memory.get(), memory, nullptr};
}

WeightTensor WeightStore::at(const std::string& name) const {
  std::lock_guard lock(mutex_);
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw EngineError(kWeights, "there is no weight named " + name);
  return found->second;
}

std::vector<std::string> WeightStore::names() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

PackedWeight WeightStore::packed(const std::string& key, size_t bytes, const std::function<void(std::byte*)>& fill) {
  {
    std::lock_guard lock(mutex_);
    if (const auto found = packed_.find(key); found != packed_.end()) {
      // A cache pads every weight to a multiple of 64 bytes.
      if (found->second.bytes < bytes || found->second.bytes >= bytes + 64) {
        throw EngineError(kWeights, "packed weight " + key + " has " + std::to_string(found->second.bytes) +
                                        " bytes, expected " + std::to_string(bytes));
      }
      return found->second;
    }
  }
  auto memory = allocate_aligned(bytes);
  std::memset(memory.get(), 0, bytes);
  fill(memory.get());
  std::lock_guard lock(mutex_);
  // Another device's queue may have packed the same weight meanwhile; both copies are equal, the first is kept.
  const auto [found, inserted] = packed_.try_emplace(key, PackedWeight{memory.get(), bytes, memory});
  if (inserted) owned_bytes_ += bytes;
  return found->second;
}

void WeightStore::set_packed(const std::string& key, PackedWeight weight) {
  std::lock_guard lock(mutex_);
  packed_[key] = std::move(weight);
}

std::map<std::string, PackedWeight> WeightStore::packed_weights() const {
  std::lock_guard lock(mutex_);
  return packed_;
}

PackedWeight WeightStore::on_device(const std::string& key, const std::function<PackedWeight()>& make) {
  {
    std::lock_guard lock(mutex_);
    if (const auto found = on_device_.find(key); found != on_device_.end()) return found->second;
  }
  PackedWeight weight = make();
  std::lock_guard lock(mutex_);
  return on_device_.try_emplace(key, std::move(weight)).first->second;
}

size_t WeightStore::owned_bytes() const {
  std::lock_guard lock(mutex_);
  return owned_bytes_;
}

// Slices of files need not be aligned to their element size: every element is loaded through memcpy.
void read_as_f32(const WeightTensor& tensor, int64_t first, int64_t count, float* to) {
  if (tensor.type.dtype == DType::f32) {
    copy_bytes(to, tensor.data + first * 4, static_cast<size_t>(count) * 4);
    return;
  }
  const std::byte* from = tensor.data + first * 2;
  for (int64_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, from + 2 * i, 2);
    to[i] = tensor.type.dtype == DType::bf16 ? float_from_bf16(bits) : float_from_f16(bits);
  }
}

void read_as(const WeightTensor& tensor, int64_t first, int64_t count, DType dtype, std::byte* to) {
  if (tensor.type.dtype == dtype) {
    copy_bytes(to, tensor.data + first * static_cast<int64_t>(size_of(dtype)), static_cast<size_t>(count) * size_of(dtype));
    return;
  }
  constexpr int64_t kPiece = 4096;
  float piece[kPiece];
  for (int64_t done = 0; done < count; done += kPiece) {
    const int64_t n = std::min(kPiece, count - done);
    read_as_f32(tensor, first + done, n, piece);
    for (int64_t i = 0; i < n; ++i) {
      if (dtype == DType::f32) {
        std::memcpy(to + (done + i) * 4, &piece[i], 4);
      } else {
        const uint16_t bits = dtype == DType::bf16 ? bf16_from_float(piece[i]) : f16_from_float(piece[i]);
        std::memcpy(to + (done + i) * 2, &bits, 2);
      }
    }
  }
}

}  // namespace omni_id
