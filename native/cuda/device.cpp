#include "cuda/device.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "cpu/isa.h"
#include "cuda/operators/operators.h"
#include "cuda/peak.h"
#include "weights/weight_parts.h"

namespace omni_id {

namespace {

class CudaBuffer final : public Buffer {
 public:
  CudaBuffer(std::shared_ptr<const cuda::Stream> stream, size_t bytes, std::function<void()> on_free)
      : Buffer(bytes), stream_(std::move(stream)), memory_(cuda::allocate(*stream_, bytes)), on_free_(std::move(on_free)) {}
  ~CudaBuffer() override {
    cuda::release(*stream_, memory_);
    on_free_();
  }
  std::byte* data() override { return memory_; }

 private:
  std::shared_ptr<const cuda::Stream> stream_;
  std::byte* memory_;
  std::function<void()> on_free_;
};

cuda::DeviceProperties properties_of(int index) {
  const cuda::Devices devices = cuda::find_devices();
  if (devices.found.empty()) throw EngineError(kDeviceUnavailable, "no CUDA device: " + devices.reason);
  if (index < 0 || index >= static_cast<int>(devices.found.size())) {
    throw EngineError(kDeviceUnavailable, "no CUDA device " + std::to_string(index) + ": there are " +
                                              std::to_string(devices.found.size()) + ", from 0 on");
  }
  const cuda::DeviceProperties& device = devices.found[static_cast<size_t>(index)];
  if (!device.reason.empty()) {
    throw EngineError(kDeviceUnavailable, "CUDA device " + std::to_string(index) + " cannot be used: " + device.reason);
  }
  return device;
}

constexpr size_t kComplaints = 32;  // bits of the word
constexpr int64_t kElementsPerTask = int64_t{1} << 16;

class CudaRecording final : public RecordedWork {
 public:
  CudaRecording(const cuda::Stream& stream, const std::function<void()>& body) : stream_(stream), recording_(stream, body) {}
  void repeat() override { recording_.launch(stream_); }

 private:
  const cuda::Stream& stream_;
  cuda::Recording recording_;
};

// Elements [first, first + count) of the whole, whose rows have so many columns.
void read_parts(const std::vector<WeightPart>& parts, int64_t columns, int64_t first, int64_t count, DType dtype,
                std::byte* to) {
  for (const auto& [tensor, first_row, rows] : parts) {
    const int64_t of_part = first_row * columns;
    const int64_t begin = std::max(first, of_part), end = std::min(first + count, of_part + rows * columns);
    if (begin >= end) continue;
    read_as(tensor, begin - of_part, end - begin, dtype, to + static_cast<size_t>(begin - first) * size_of(dtype));
  }
}

}  // namespace

CudaDevice::CudaDevice(int index)
    : index_(index),
      properties_(properties_of(index)),
      memory_stream_(std::make_shared<cuda::Stream>(index)),
      stream_(index),
      side_stream_(index),
      piece_ends_{cuda::Event(index, cuda::Waits::asleep), cuda::Event(index, cuda::Waits::asleep)},
      staging_(index),
      pool_(available_parallelism()),
      accounting_(std::make_shared<MemoryAccount>()),
      complaints_(allocate(sizeof(int))),
      said_(cuda::allocate_pinned(sizeof(int)), cuda::release_pinned) {
  cuda::fill_zeros(stream_, complaints_->data(), sizeof(int));
  stream_.synchronize();
}

CudaDevice::~CudaDevice() = default;

std::string CudaDevice::instruction_set() const {
  return "sm_" + std::to_string(properties_.compute_capability) + (cuda::emulated() ? " (emulated)" : "");
}

std::shared_ptr<Buffer> CudaDevice::allocate(size_t bytes) {
  auto buffer =
      std::make_shared<CudaBuffer>(memory_stream_, bytes, [accounting = accounting_, bytes] { accounting->subtract(bytes); });
  accounting_->add(bytes);
  return buffer;
}

void CudaDevice::write(Buffer& buffer, size_t offset, const void* from, size_t bytes) {
  cuda::use_device(index_);
  staging_.upload(side_stream_, buffer.data() + offset, bytes, [&](size_t at, size_t count, std::byte* to) {
    copy_bytes(to, static_cast<const std::byte*>(from) + at, count);
  });
}

void CudaDevice::read(Buffer& buffer, size_t offset, void* to, size_t bytes) {
  cuda::use_device(index_);
  staging_.download(side_stream_, to, buffer.data() + offset, bytes);
}

void CudaDevice::preprocess(const RgbImage& image, const ClipPreprocess& settings, Buffer& to, size_t first_element) {
  const size_t bytes = static_cast<size_t>(settings.crop) * static_cast<size_t>(settings.crop) * 3 * sizeof(float);
  if (bytes > cuda::Staging::kPieceBytes) {
    std::vector<float> pixels(bytes / sizeof(float));
    clip_preprocess(kernels_for({}), image, settings, pixels.data());
    write(to, first_element * sizeof(float), pixels.data(), bytes);
    return;
  }
  cuda::use_device(index_);
  staging_.upload(side_stream_, to.data() + first_element * sizeof(float), bytes, [&](size_t, size_t, std::byte* pixels) {
    clip_preprocess(kernels_for({}), image, settings, reinterpret_cast<float*>(pixels));
  });
}

std::byte* CudaDevice::arena(size_t bytes) {
  cuda::use_device(index_);  // what begins every run
  return Device::arena(bytes);
}

PackedWeight CudaDevice::prepare(WeightStore& weights, const std::vector<std::string>& names, const TensorType& type,
                                 InputRole) {
  // With the shape: who asks for another one with the same names is told that they do not fit, and reads nothing beyond.
  std::string key = "cuda:" + std::to_string(index_) + " " + to_string(type);
  for (const std::string& name : names) key += " " + name;
  return weights.on_device(key, [&] {
    const std::vector<WeightPart> parts = parts_of(weights, names, type);
    const int64_t columns = type.elements() / std::max<int64_t>(1, type.shape.empty() ? 1 : type.shape[0]);
    const auto size = static_cast<int64_t>(size_of(type.dtype));
    std::shared_ptr<Buffer> buffer = allocate(type.bytes());
    cuda::use_device(index_);
    staging_.upload(side_stream_, buffer->data(), type.bytes(), [&](size_t offset, size_t bytes, std::byte* to) {
      const int64_t first = static_cast<int64_t>(offset) / size, count = static_cast<int64_t>(bytes) / size;
      parallel_for((count + kElementsPerTask - 1) / kElementsPerTask, [&](int64_t task) {
        const int64_t begin = task * kElementsPerTask;
        read_parts(parts, columns, first + begin, std::min(kElementsPerTask, count - begin), type.dtype, to + begin * size);
      });
    });
    release(parts);
    return PackedWeight{buffer->data(), type.bytes(), buffer};
  });
}

std::unique_ptr<Kernel> CudaDevice::bind(const OperatorRow& row, const Arguments& arguments) {
  const cuda::MakeKernel make = cuda::kernel_for(row);
  if (!make) throw EngineError(kDeviceUnavailable, std::string(row.name) + " has no CUDA kernel");
  cuda::use_device(index_);  // attributes of kernels are a device's
  return make(arguments, *this);
}

void CudaDevice::parallel_for(int64_t tasks, const std::function<void(int64_t)>& body) {
  pool_.parallel_for(tasks, [&](int64_t task, int) { body(task); });
}

int CudaDevice::complaint(const std::string& text) {
  auto found = std::find(complaint_texts_.begin(), complaint_texts_.end(), text);
  if (found == complaint_texts_.end()) {
    require(complaint_texts_.size() < kComplaints, "cuda", "more kinds of complaints than bits");
    found = complaint_texts_.insert(found, text);
  }
  return 1 << (found - complaint_texts_.begin());
}

// Some milliseconds of a large GPU, some tens of a small one: to wait for a piece and to give the next takes a hundredth of it,
// and most runs have no more than one. Less under emulation, so that the tests' small plans have several.
double CudaDevice::piece_of_work() const { return cuda::emulated() ? 1e7 : 1e12; }

void CudaDevice::end_piece() {
  has_pieces_ = true;
  last_piece_ ^= 1;
  piece_ends_[last_piece_].record(stream_);
  piece_ends_[last_piece_ ^ 1].synchronize();
}

std::unique_ptr<RecordedWork> CudaDevice::record(const std::function<void()>& body) {
  try {
    return std::make_unique<CudaRecording>(stream_, body);
  } catch (const EngineError& error) {
    if (std::string(error.code()) != kOutOfMemory) throw;
    return nullptr;  // works without
  }
}

void CudaDevice::synchronize() {
  cuda::copy_to_host(stream_, said_.get(), complaints_->data(), sizeof(int));
  if (std::exchange(has_pieces_, false)) {
    cuda::Event& end = piece_ends_[last_piece_ ^ 1];  // its piece is done
    end.record(stream_);
    end.synchronize();
  }
  stream_.synchronize();
  int said;
  std::memcpy(&said, said_.get(), sizeof said);
  if (said == 0) return;
  cuda::fill_zeros(stream_, complaints_->data(), sizeof said);
  stream_.synchronize();
  for (size_t bit = 0; bit < complaint_texts_.size(); ++bit) {
    if (said >> bit & 1) throw EngineError(kInvalidArgument, complaint_texts_[bit]);
  }
}

void CudaDevice::abandon() noexcept {
  has_pieces_ = false;
  for (int attempt = 0; attempt < 2; ++attempt) {  // what failed may have taken the zeros with it
    try {
      cuda::fill_zeros(stream_, complaints_->data(), sizeof(int));
      stream_.synchronize();
      return;
    } catch (const EngineError&) {
      // Whoever gave the work up knows why.
    }
  }
}

double CudaDevice::measure_peak(Peak what, double seconds) {
  cuda::use_device(index_);
  return cuda::measure_peak(*this, what, seconds);
}

DeviceMemory CudaDevice::memory() const { return accounting_->read(); }

std::shared_ptr<Device> open_cuda_device(int index) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<CudaDevice>> devices;
  const std::lock_guard lock(mutex);
  std::shared_ptr<CudaDevice> device = devices[index].lock();
  if (!device) devices[index] = device = std::make_shared<CudaDevice>(index);
  return device;
}

namespace cuda {

void CudaKernel::run(const KernelCall& call) {
  if (emulated()) {
    std::vector<Region> regions;
    const auto add = [&](const TensorView& view, const std::string& name, bool writable) {
      if (!view.data || view.type.elements() == 0) return;
      const size_t size = size_of(view.type.dtype);
      regions.push_back({view.data, static_cast<size_t>(view.type.columns()) * size,
                         static_cast<size_t>(view.row_stride) * size, static_cast<size_t>(view.type.rows()), writable, name});
    };
    for (size_t i = 0; i < call.inputs.size(); ++i) add(call.inputs[i], row_.inputs[i].name, false);
    for (size_t i = 0; i < call.outputs.size(); ++i) add(call.outputs[i], "output " + std::to_string(i), true);
    if (const size_t bytes = workspace_bytes()) regions.push_back({call.workspace, bytes, bytes, 1, true, "workspace"});
    regions.push_back({reinterpret_cast<std::byte*>(device_.complaints()), sizeof(int), sizeof(int), 1, true, "complaints"});
    declare_regions(row_.name, std::move(regions));
  }
  enqueue(call, device_.stream());
}

}  // namespace cuda

}  // namespace omni_id
