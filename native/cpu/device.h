#pragma once

#include <memory>
#include <string>

#include "base/thread_pool.h"
#include "cpu/kernels/kernels.h"
#include "runtime/device.h"
#include "runtime/memory_account.h"

namespace omni_id {

// The processor as a device: a thread pool, one instruction set's kernels, and scratch memory for each worker.
class CpuDevice final : public Device {
 public:
  // `isa` empty: OMNI_ID_ISA, or the best. `threads` 0: available_parallelism().
  CpuDevice(int threads, const std::string& isa);

  const char* kind() const override { return "cpu"; }
  std::string instruction_set() const override { return kernels_.name; }
  int threads() const override { return pool_.size(); }
  std::shared_ptr<Buffer> allocate(size_t bytes) override;
  void write(Buffer& buffer, size_t offset, const void* from, size_t bytes) override;
  void read(Buffer& buffer, size_t offset, void* to, size_t bytes) override;
  void preprocess(const RgbImage& image, const ClipPreprocess& settings, Buffer& to, size_t first_element) override;
  PackedWeight prepare(WeightStore& weights, const std::vector<std::string>& names, const TensorType& type,
                       InputRole role) override;
  std::unique_ptr<Kernel> bind(const OperatorRow& row, const Arguments& arguments) override;
  void parallel_for(int64_t tasks, const std::function<void(int64_t)>& body) override;
  double measure_peak(Peak what, double seconds) override;
  DeviceMemory memory() const override;

  const cpu::KernelTable& kernels() const { return kernels_; }
  ThreadPool& pool() { return pool_; }
  // Makes sure that every worker has this much scratch; called before a loop, never inside one.
  void reserve_scratch(size_t bytes);
  void* scratch(int worker) { return scratch_[static_cast<size_t>(worker)].get(); }

 private:
  const cpu::KernelTable& kernels_;
  ThreadPool pool_;
  std::shared_ptr<MemoryAccount> accounting_;
  std::vector<std::shared_ptr<std::byte>> scratch_;
  size_t scratch_bytes_ = 0;
};

// The process's device for this number of threads (0: as many as there are) and instruction set: shared by everything that asks
// for the same, so that two encoders do not oversubscribe the processor. Throws what CpuDevice's constructor throws.
std::shared_ptr<CpuDevice> open_cpu_device(int threads, const std::string& isa = {});

}  // namespace omni_id
