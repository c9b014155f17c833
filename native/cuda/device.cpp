#include "cuda/device.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

#include "base/error.h"
#include "cpu/isa.h"
#include "cuda/operators/operators.h"

namespace omni_id {

struct CudaDevice::Accounting {
  std::atomic<size_t> current{0}, peak{0};

  void add(size_t bytes) {
    const size_t now = current.fetch_add(bytes) + bytes;
    size_t seen = peak.load();
    while (now > seen && !peak.compare_exchange_weak(seen, now)) {
    }
  }
};

namespace {

class CudaBuffer final : public Buffer {
 public:
  CudaBuffer(int device, size_t bytes, std::function<void()> on_free)
      : Buffer(bytes), device_(device), memory_(cuda::allocate(device, bytes)), on_free_(std::move(on_free)) {}
  ~CudaBuffer() override {
    cuda::release(device_, memory_);
    on_free_();
  }
  std::byte* data() override { return memory_; }

 private:
  int device_;
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
  return devices.found[static_cast<size_t>(index)];
}

constexpr size_t kComplaints = 32;  // bits of the word

}  // namespace

CudaDevice::CudaDevice(int index)
    : index_(index),
      properties_(properties_of(index)),
      stream_(index),
      side_stream_(index),
      accounting_(std::make_shared<Accounting>()),
      complaints_(allocate(sizeof(int))) {
  cuda::fill_zeros(stream_, complaints_->data(), sizeof(int));
  stream_.synchronize();
}

CudaDevice::~CudaDevice() = default;

std::string CudaDevice::instruction_set() const {
  return "sm_" + std::to_string(properties_.compute_capability) + (cuda::emulated() ? " (emulated)" : "");
}

std::shared_ptr<Buffer> CudaDevice::allocate(size_t bytes) {
  auto buffer =
      std::make_shared<CudaBuffer>(index_, bytes, [accounting = accounting_, bytes] { accounting->current -= bytes; });
  accounting_->add(bytes);
  return buffer;
}

void CudaDevice::write(Buffer& buffer, size_t offset, const void* from, size_t bytes) {
  cuda::copy_to_device(side_stream_, buffer.data() + offset, from, bytes);
  side_stream_.synchronize();
}

void CudaDevice::read(Buffer& buffer, size_t offset, void* to, size_t bytes) {
  cuda::copy_to_host(side_stream_, to, buffer.data() + offset, bytes);
  side_stream_.synchronize();
}

void CudaDevice::preprocess(const RgbImage& image, const ClipPreprocess& settings, Buffer& to, size_t first_element) {
  std::vector<float> pixels(static_cast<size_t>(settings.crop) * static_cast<size_t>(settings.crop) * 3);
  clip_preprocess(kernels_for({}), image, settings, pixels.data());
  write(to, first_element * sizeof(float), pixels.data(), pixels.size() * sizeof(float));
}

std::byte* CudaDevice::arena(size_t bytes) {
  if (!arena_ || arena_->bytes() < bytes) {
    arena_.reset();  // the old one first: both are not needed at once
    arena_ = allocate(bytes);
  }
  return arena_->data();
}

PackedWeight CudaDevice::prepare(WeightStore& weights, const std::vector<std::string>& names, const TensorType& type,
                                 InputRole) {
  std::string key = "cuda:" + std::to_string(index_) + " " + name_of(type.dtype);
  for (const std::string& name : names) key += " " + name;
  return weights.on_device(key, [&] {
    const int64_t elements = type.elements();
    std::vector<std::byte> host(type.bytes());
    int64_t at = 0;
    for (const std::string& name : names) {
      const WeightTensor tensor = weights.at(name);
      Shape shape = tensor.type.shape, expected = type.shape;
      if (!shape.empty() && !expected.empty()) shape[0] = expected[0] = 0;
      const int64_t count = tensor.type.elements();
      if (shape != expected || count > elements - at) {
        throw EngineError(kWeights,
                          "weight " + name + " is " + to_string(tensor.type) + ", which does not fit " + to_string(type));
      }
      read_as(tensor, 0, count, type.dtype, host.data() + static_cast<size_t>(at) * size_of(type.dtype));
      at += count;
    }
    if (at != elements) {
      throw EngineError(kWeights, "weight " + names[0] + " and those it is read with have " + std::to_string(at) +
                                      " elements, expected " + to_string(type));
    }
    std::shared_ptr<Buffer> buffer = allocate(host.size());
    write(*buffer, 0, host.data(), host.size());
    return PackedWeight{buffer->data(), host.size(), buffer};
  });
}

std::unique_ptr<Kernel> CudaDevice::bind(const OperatorRow& row, const Arguments& arguments) {
  const cuda::MakeKernel make = cuda::kernel_for(row);
  if (!make) throw EngineError(kDeviceUnavailable, std::string(row.name) + " has no CUDA kernel");
  return make(arguments, *this);
}

void CudaDevice::parallel_for(int64_t tasks, const std::function<void(int64_t)>& body) {
  for (int64_t task = 0; task < tasks; ++task) body(task);
}

int CudaDevice::complaint(const std::string& text) {
  auto found = std::find(complaint_texts_.begin(), complaint_texts_.end(), text);
  if (found == complaint_texts_.end()) {
    require(complaint_texts_.size() < kComplaints, "cuda", "more kinds of complaints than bits");
    found = complaint_texts_.insert(found, text);
  }
  return 1 << (found - complaint_texts_.begin());
}

void CudaDevice::synchronize() {
  stream_.synchronize();
  int said = 0;
  cuda::copy_to_host(stream_, &said, complaints_->data(), sizeof said);
  stream_.synchronize();
  if (said == 0) return;
  cuda::fill_zeros(stream_, complaints_->data(), sizeof said);
  stream_.synchronize();
  for (size_t bit = 0; bit < complaint_texts_.size(); ++bit) {
    if (said >> bit & 1) throw EngineError(kInvalidArgument, complaint_texts_[bit]);
  }
}

double CudaDevice::measure_peak(Peak, double) { return 0.0; }

DeviceMemory CudaDevice::memory() const { return {accounting_->current.load(), accounting_->peak.load()}; }

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
