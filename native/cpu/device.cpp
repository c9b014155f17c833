#include "cpu/device.h"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "base/error.h"
#include "base/float_formats.h"
#include "cpu/isa.h"
#include "weights/weight_parts.h"

namespace omni_id {

namespace {

class CpuBuffer final : public Buffer {
 public:
  CpuBuffer(size_t bytes, std::function<void()> on_free)
      : Buffer(bytes), memory_(allocate_aligned(bytes)), on_free_(std::move(on_free)) {}
  ~CpuBuffer() override { on_free_(); }
  std::byte* data() override { return memory_.get(); }

 private:
  std::shared_ptr<std::byte> memory_;
  std::function<void()> on_free_;
};

int checked_threads(int threads) {
  if (threads < 0 || threads > 1024) {
    throw EngineError(kInvalidArgument, "threads is " + std::to_string(threads) + ", expected a whole number from 1 to 1024");
  }
  return threads == 0 ? available_parallelism() : threads;
}

}  // namespace

CpuDevice::CpuDevice(int threads, const std::string& isa)
    : kernels_(kernels_for(isa)), pool_(checked_threads(threads)), accounting_(std::make_shared<MemoryAccount>()) {}

std::shared_ptr<Buffer> CpuDevice::allocate(size_t bytes) {
  auto buffer = std::make_shared<CpuBuffer>(bytes, [accounting = accounting_, bytes] { accounting->subtract(bytes); });
  accounting_->add(bytes);
  return buffer;
}

void CpuDevice::write(Buffer& buffer, size_t offset, const void* from, size_t bytes) {
  copy_bytes(buffer.data() + offset, from, bytes);
}

void CpuDevice::read(Buffer& buffer, size_t offset, void* to, size_t bytes) { copy_bytes(to, buffer.data() + offset, bytes); }

void CpuDevice::reserve_scratch(size_t bytes) {
  const size_t workers = static_cast<size_t>(pool_.size());
  if (scratch_.size() == workers && scratch_bytes_ >= bytes) return;
  scratch_.clear();
  accounting_->subtract(scratch_bytes_ * workers);
  scratch_bytes_ = 0;
  for (size_t worker = 0; worker < workers; ++worker) scratch_.push_back(allocate_aligned(bytes));
  scratch_bytes_ = bytes;
  accounting_->add(bytes * workers);
}

void CpuDevice::parallel_for(int64_t tasks, const std::function<void(int64_t)>& body) {
  pool_.parallel_for(tasks, [&](int64_t task, int) { body(task); });
}

void CpuDevice::preprocess(const RgbImage& image, const ClipPreprocess& settings, Buffer& to, size_t first_element) {
  clip_preprocess(kernels_, image, settings, reinterpret_cast<float*>(to.data()) + first_element);
}

DeviceMemory CpuDevice::memory() const { return accounting_->read(); }

std::unique_ptr<Kernel> CpuDevice::bind(const OperatorRow& row, const Arguments& arguments) {
  return row.cpu(arguments, *this);
}

namespace {

// Panel `panel` of the concatenation, see kPanelColumns.
void pack_panel(const std::vector<WeightPart>& parts, int64_t rows, int64_t columns, bool bf16, int64_t panel, std::byte* to) {
  std::vector<float> row(static_cast<size_t>(columns));
  const int64_t first = panel * cpu::kPanelColumns, last = std::min(rows, first + cpu::kPanelColumns);
  for (int64_t j = first; j < last; ++j) {
    const WeightPart& part = *std::find_if(parts.rbegin(), parts.rend(), [&](const WeightPart& p) { return p.first_row <= j; });
    read_as_f32(part.tensor, (j - part.first_row) * columns, columns, row.data());
    if (bf16) {
      uint16_t* column = reinterpret_cast<uint16_t*>(to) + (j - first) * 2;
      for (int64_t k = 0; k < columns; ++k) {
        column[k / 2 * 2 * cpu::kPanelColumns + k % 2] = bf16_from_float(row[static_cast<size_t>(k)]);
      }
    } else {
      float* column = reinterpret_cast<float*>(to) + (j - first);
      for (int64_t k = 0; k < columns; ++k) column[k * cpu::kPanelColumns] = row[static_cast<size_t>(k)];
    }
  }
}

}  // namespace

PackedWeight CpuDevice::prepare(WeightStore& weights, const std::vector<std::string>& names, const TensorType& type,
                                InputRole role) {
  const bool matrix = role == InputRole::matrix, bf16 = type.dtype == DType::bf16;
  const int64_t rows = type.shape.empty() ? 1 : type.shape[0];
  const int64_t columns = rows == 0 ? 0 : type.elements() / rows;
  const int64_t panels = (rows + cpu::kPanelColumns - 1) / cpu::kPanelColumns;
  const size_t panel_bytes =
      static_cast<size_t>((bf16 ? (columns + 1) / 2 * 2 : columns) * cpu::kPanelColumns) * size_of(type.dtype);
  std::string key = matrix ? std::string("matrix.") + name_of(type.dtype) + ":" : "plain:";
  for (size_t i = 0; i < names.size(); ++i) key += (i ? "+" : "") + names[i];

  // The published tensors are asked for only when there is no packed form: with a packed cache they are never registered.
  const size_t bytes = matrix ? static_cast<size_t>(panels) * panel_bytes : static_cast<size_t>(rows * columns) * sizeof(float);
  return weights.packed(key, bytes, [&](std::byte* memory) {
    const std::vector<WeightPart> parts = parts_of(weights, names, type);
    if (matrix) {
      pool_.parallel_for(panels, [&](int64_t panel, int) {
        pack_panel(parts, rows, columns, bf16, panel, memory + static_cast<size_t>(panel) * panel_bytes);
      });
    } else {
      for (const WeightPart& part : parts) {
        read_as_f32(part.tensor, 0, part.rows * columns, reinterpret_cast<float*>(memory) + part.first_row * columns);
      }
    }
    release(parts);
  });
}

std::shared_ptr<CpuDevice> open_cpu_device(int threads, const std::string& isa) {
  static std::mutex mutex;
  static std::map<std::pair<int, std::string>, std::weak_ptr<CpuDevice>> devices;
  const auto key = std::pair(checked_threads(threads), std::string(kernels_for(isa).name));
  std::lock_guard lock(mutex);
  std::shared_ptr<CpuDevice> device = devices[key].lock();
  if (!device) {
    device = std::make_shared<CpuDevice>(key.first, key.second);
    devices[key] = device;
  }
  return device;
}

}  // namespace omni_id
