#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "base/tensor.h"

namespace omni_id {

// Runs body(i) for all i in [0, tasks), on any number of threads.
using ParallelFor = std::function<void(int64_t tasks, const std::function<void(int64_t)>& body)>;

// A named tensor in its published layout: a slice of a mapped file, or memory of its own.
struct WeightTensor {
  TensorType type;
  const std::byte* data = nullptr;
  std::shared_ptr<const void> owner;
  std::shared_ptr<const MappedFile> file;  // when it is a slice of one
};

// A weight in the layout of the kernels.
struct PackedWeight {
  const std::byte* data = nullptr;
  size_t bytes = 0;
  std::shared_ptr<const void> owner;
};

// The weights of one model, shared by all of its plans. Packed forms are made once, on first use, or come from a packed
// cache. Safe to use from several threads.
class WeightStore {
 public:
  // `file` must hold the tensor at `offset`; throws ERR_WEIGHTS when it would reach past the end.
  void set_mapped(const std::string& name, const TensorType& type, std::shared_ptr<const MappedFile> file, size_t offset);
  // Copies `values`, in f32.
  void set(const std::string& name, const Shape& shape, const float* values);
  // Fills a new f32 tensor with normal (mean, standard deviation) or constant numbers: Philox keyed by the seed, counting
  // elements, in a stream of the name's own, or of `drawn_as`, so that a tensor's values depend on nothing but seed, name
  // and index.
  void set_normal(const std::string& name, const Shape& shape, uint64_t seed, double mean, double standard_deviation,
                  const ParallelFor& parallel_for, const std::string& drawn_as = {});

  // Throws ERR_WEIGHTS when there is none of that name.
  WeightTensor at(const std::string& name) const;
  std::vector<std::string> names() const;

  // The packed weight `key`, made by `fill` (given zeroed memory of `bytes`) when there is none. Throws ERR_WEIGHTS when a
  // cached one has another size, ERR_OUT_OF_MEMORY when there is no memory for it.
  PackedWeight packed(const std::string& key, size_t bytes, const std::function<void(std::byte*)>& fill);
  void set_packed(const std::string& key, PackedWeight weight);
  std::map<std::string, PackedWeight> packed_weights() const;
  // The weight `key` in a device's own memory, made on first use and kept as long as the store: never part of a packed cache.
  PackedWeight on_device(const std::string& key, const std::function<PackedWeight()>& make);

  // Memory held outside of mapped files, in bytes.
  size_t owned_bytes() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, WeightTensor> tensors_;
  std::map<std::string, PackedWeight> packed_, on_device_;
  size_t owned_bytes_ = 0;
};

// Elements [first, first + count) of a tensor, converted; `to` holds count elements.
void read_as_f32(const WeightTensor& tensor, int64_t first, int64_t count, float* to);
void read_as(const WeightTensor& tensor, int64_t first, int64_t count, DType dtype, std::byte* to);

// 64-byte aligned memory; throws ERR_OUT_OF_MEMORY naming the size.
std::shared_ptr<std::byte> allocate_aligned(size_t bytes);

}  // namespace omni_id
