#include <cstring>

#include "cpu/device.h"
#include "cpu/operators/operators.h"
#include "graph/offsets.h"

namespace omni_id::cpu {

namespace {

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
    check_offsets("concat_rows", "offsets", offsets, pieces_, rows_);
    for (int64_t i = 0; i < pieces_; ++i) {
      require(starts[i] >= 0 && starts[i] + int64_t{offsets[i + 1]} - offsets[i] <= source_rows_, "concat_rows",
              "piece " + std::to_string(i) + " starts at row " + std::to_string(starts[i]) + " and reaches past the " +
                  std::to_string(source_rows_) + " rows of x");
    }
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

}  // namespace

std::unique_ptr<Kernel> make_concat_rows(const Arguments& a, CpuDevice& device) {
  return std::make_unique<ConcatRows>(a, device);
}

}  // namespace omni_id::cpu
