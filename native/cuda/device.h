#pragma once

#include <memory>
#include <string>

#include "base/thread_pool.h"
#include "cuda/runtime.h"
#include "cuda/staging.h"
#include "runtime/device.h"
#include "runtime/memory_account.h"

namespace omni_id {

// A graphics processor: one stream for its runs, one for copies from and to the host beside them, through page-locked memory.
// What is read element by element lies there as it does on the CPU; matrices keep their rows, too: the kernels read both
// operands of a product by rows.
//
// A run gives its kernels to the stream and waits for it, so that what a run used may be freed when it has returned. Long ones
// are given in pieces, of which the stream has two at most, one that is done and one that waits: a run that is cancelled gives
// no more, and ends when these are done. Whoever waits for a piece sleeps; what is shorter is waited for spinning, since to be
// woken takes longer than many a small plan.
class CudaDevice final : public Device {
 public:
  // Throws ERR_DEVICE_UNAVAILABLE when there is no device of this number.
  explicit CudaDevice(int index);
  ~CudaDevice() override;

  const char* kind() const override { return "cuda"; }
  std::string instruction_set() const override;
  int threads() const override { return pool_.size(); }
  std::shared_ptr<Buffer> allocate(size_t bytes) override;
  void write(Buffer& buffer, size_t offset, const void* from, size_t bytes) override;
  void read(Buffer& buffer, size_t offset, void* to, size_t bytes) override;
  void preprocess(const RgbImage& image, const ClipPreprocess& settings, Buffer& to, size_t first_element) override;
  std::byte* arena(size_t bytes) override;
  PackedWeight prepare(WeightStore& weights, const std::vector<std::string>& names, const TensorType& type,
                       InputRole role) override;
  std::unique_ptr<Kernel> bind(const OperatorRow& row, const Arguments& arguments) override;
  void parallel_for(int64_t tasks, const std::function<void(int64_t)>& body) override;
  double piece_of_work() const override;
  void end_piece() override;
  bool records() const override { return true; }
  std::unique_ptr<RecordedWork> record(const std::function<void()>& body) override;
  void synchronize() override;
  void abandon() noexcept override;
  double measure_peak(Peak what, double seconds) override;
  DeviceMemory memory() const override;

  const cuda::DeviceProperties& properties() const { return properties_; }
  const cuda::Stream& stream() const { return stream_; }
  // A word that kernels set when what they were given at run time does not fit, such as offsets that fall; looked at by
  // synchronize, which throws ERR_INVALID_ARGUMENT with the text of the bit. On the CPU an operator that complains is the last
  // of its run; here those behind it run too, and what they write means nothing. The optimizer looks at the word for itself,
  // and changes nothing.
  int* complaints() { return reinterpret_cast<int*>(complaints_->data()); }
  // A bit of the word, for this text.
  int complaint(const std::string& text);

 private:
  int index_;
  cuda::DeviceProperties properties_;
  // Memory's stream is shared with the buffers, which may outlive the device.
  std::shared_ptr<const cuda::Stream> memory_stream_;
  cuda::Stream stream_, side_stream_;
  cuda::Event piece_ends_[2];  // of the last piece and of the one before, in turn
  size_t last_piece_ = 0;
  bool has_pieces_ = false;  // the run that is under way
  cuda::Staging staging_;
  ThreadPool pool_;  // of the host
  std::shared_ptr<MemoryAccount> accounting_;
  std::shared_ptr<Buffer> complaints_;
  std::unique_ptr<std::byte, void (*)(std::byte*)> said_;  // page-locked: what complaints_ held after the last run
  std::vector<std::string> complaint_texts_;
};

// The process's device of this number, shared by everything that asks for it.
std::shared_ptr<Device> open_cuda_device(int index);

namespace cuda {

// An operator's kernels, bound to one set of types.
class CudaKernel : public Kernel {
 public:
  CudaKernel(const OperatorRow& row, CudaDevice& device) : row_(row), device_(device) {}
  // Puts the work into the device's stream and returns.
  void run(const KernelCall& call) final;

 protected:
  virtual void enqueue(const KernelCall& call, const Stream& stream) = 0;
  CudaDevice& device() const { return device_; }

 private:
  const OperatorRow& row_;
  CudaDevice& device_;
};

}  // namespace cuda

}  // namespace omni_id
