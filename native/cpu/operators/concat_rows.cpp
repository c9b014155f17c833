#include <algorithm>
#include <cstring>
#include <vector>

#include "base/float_formats.h"
#include "cpu/device.h"
#include "cpu/operators/operators.h"
#include "graph/offsets.h"

namespace omni_id::cpu {

namespace {

// Pieces arrive with every run, from outside: kernels may trust them only after this.
void check_pieces(const char* op, const int32_t* starts, const int32_t* offsets, int64_t pieces, int64_t rows,
                  int64_t source_rows) {
  check_offsets(op, "offsets", offsets, pieces, rows);
  for (int64_t i = 0; i < pieces; ++i) {
    require(starts[i] >= 0 && starts[i] + int64_t{offsets[i + 1]} - offsets[i] <= source_rows, op,
            "piece " + std::to_string(i) + " starts at row " + std::to_string(starts[i]) + " and reaches past the " +
                std::to_string(source_rows) + " rows of x");
  }
}

class ConcatRows final : public Kernel {
 public:
  ConcatRows(const Arguments& a, CpuDevice& device)
      : device_(device),
        source_rows_(a[0].shape[0]),
        pieces_(a[1].shape[0]),
        rows_(a.integer("rows")),
        element_(static_cast<int64_t>(size_of(a[0].dtype))),
        row_bytes_(static_cast<size_t>(a[0].columns() * element_)) {}

  void run(const KernelCall& call) override {
    const TensorView &x = call.inputs[0], &y = call.outputs[0];
    const int32_t *starts = call.inputs[1].as<const int32_t>(), *offsets = call.inputs[2].as<const int32_t>();
    check_pieces("concat_rows", starts, offsets, pieces_, rows_, source_rows_);
    device_.parallel_for(pieces_, [&](int64_t i) {
      for (int64_t row = offsets[i]; row < offsets[i + 1]; ++row) {
        std::memcpy(y.data + row * y.row_stride * element_, x.data + (starts[i] + row - offsets[i]) * x.row_stride * element_,
                    row_bytes_);
      }
    });
  }

 private:
  CpuDevice& device_;
  int64_t source_rows_, pieces_, rows_, element_;
  size_t row_bytes_;
};

// Every row of x is summed by one worker, over the pieces in their order.
class ConcatRowsGradient final : public Kernel {
 public:
  ConcatRowsGradient(const Arguments& a, CpuDevice& device)
      : device_(device),
        rows_(a.integer("rows")),
        pieces_(a[1].shape[0]),
        dy_rows_(a[0].shape[0]),
        columns_(a[0].columns()),
        bf16_(a[0].dtype == DType::bf16) {}

  void run(const KernelCall& call) override {
    const int32_t *starts = call.inputs[1].as<const int32_t>(), *offsets = call.inputs[2].as<const int32_t>();
    check_pieces("concat_rows_gradient", starts, offsets, pieces_, dy_rows_, rows_);
    device_.parallel_for((rows_ + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task) {
      std::vector<float> sum(static_cast<size_t>(columns_));
      for (int64_t row = task * kRowsPerTask; row < std::min(rows_, (task + 1) * kRowsPerTask); ++row) {
        std::fill(sum.begin(), sum.end(), 0.0f);
        for (int64_t i = 0; i < pieces_; ++i) {
          const int64_t from = offsets[i] + row - starts[i];
          if (row >= starts[i] && from < offsets[i + 1]) add(call.inputs[0], from, sum.data());
        }
        write(sum.data(), call.outputs[0], row);
      }
    });
  }

 private:
  static constexpr int64_t kRowsPerTask = 16;

  void add(const TensorView& dy, int64_t row, float* sum) const {
    if (bf16_) {
      const uint16_t* from = dy.as<const uint16_t>() + row * dy.row_stride;
      for (int64_t j = 0; j < columns_; ++j) sum[j] += float_from_bf16(from[j]);
    } else {
      const float* from = dy.as<const float>() + row * dy.row_stride;
      for (int64_t j = 0; j < columns_; ++j) sum[j] += from[j];
    }
  }

  void write(const float* sum, const TensorView& dx, int64_t row) const {
    if (bf16_) {
      uint16_t* to = dx.as<uint16_t>() + row * dx.row_stride;
      for (int64_t j = 0; j < columns_; ++j) to[j] = bf16_from_float(sum[j]);
    } else {
      std::copy(sum, sum + columns_, dx.as<float>() + row * dx.row_stride);
    }
  }

  CpuDevice& device_;
  int64_t rows_, pieces_, dy_rows_, columns_;
  bool bf16_;
};

}  // namespace

std::unique_ptr<Kernel> make_concat_rows_gradient(const Arguments& a, CpuDevice& device) {
  return std::make_unique<ConcatRowsGradient>(a, device);
}

std::unique_ptr<Kernel> make_concat_rows(const Arguments& a, CpuDevice& device) {
  return std::make_unique<ConcatRows>(a, device);
}

}  // namespace omni_id::cpu
