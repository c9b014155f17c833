// concat_rows copies runs of rows (pieces) behind each other, and its gradient adds up what was copied from each row; shapes
// and layouts stand in native/operators/concat_rows.cpp and concat_rows_gradient.cpp.
//
// Strategy: a warp takes a row of y and finds its piece by bisection, the same for all lanes; bytes are moved 16 a lane where
// addresses and strides allow it, whatever their type. In the gradient a warp takes 8 columns a lane of a row of dx: its lanes
// look at 32 pieces at once for one that the row was copied from, and those that are found are added in f32 in the pieces'
// order. Pieces come from outside with every run. The launch's first block looks at all of them and complains; whatever they
// say, no row is read that is not there. Registers: at most 52, and 62 in the gradient. Cost: reads and writes every byte once;
// the gradient reads dy once and writes dx, one addition an element of dy.
#include "cuda/operators/launching.h"
#include "cuda/operators/vectors.cuh"

namespace omni_id::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kRowsPerBlock = kThreads / kWarp;
constexpr int kLoads = 4;    // in flight of a lane
constexpr int kColumns = 8;  // of a lane, whose sums it keeps

struct Pieces {
  const int32_t *starts, *offsets;
  int64_t count;
  int64_t rows, source_rows;  // of y, and of x
  int* complaints;
  int complaint;
};

__device__ __forceinline__ void check_pieces(const Pieces& pieces) {
  bool good = pieces.offsets[0] == 0 && pieces.offsets[pieces.count] == pieces.rows;
  for (int64_t i = threadIdx.x; i < pieces.count; i += kThreads) {
    const int64_t start = pieces.starts[i], length = int64_t{pieces.offsets[i + 1]} - pieces.offsets[i];
    good = good && length >= 0 && start >= 0 && start + length <= pieces.source_rows;
  }
  if (!good) atomicOr(pieces.complaints, pieces.complaint);
}

// T: as many bytes as a lane moves at once. Strides and columns count such units.
template <typename T>
__global__ void __launch_bounds__(kThreads) concat_rows_kernel(Pieces pieces, Matrix<const T> x, Matrix<T> y, int64_t columns) {
  expect_threads<kThreads>();
  if (blockIdx.x == 0) check_pieces(pieces);
  const int lane = threadIdx.x % kWarp;
  const int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarp;
  if (row >= pieces.rows) return;
  int64_t piece = 0, after = pieces.count;  // the last piece that begins at the row or before
  while (piece + 1 < after) {
    const int64_t middle = piece + (after - piece) / 2;
    (pieces.offsets[middle] <= row ? piece : after) = middle;
  }
  const int64_t source = pieces.starts[piece] + row - pieces.offsets[piece];
  if (source < 0 || source >= pieces.source_rows) return;
  const T* from = x.row(source);
  T* to = y.row(row);
  const auto load = [&](int64_t i) {
    if constexpr (sizeof(T) == kVectorBytes)
      return load_vector<T>(from + i);
    else
      return from[i];
  };
  const auto store = [&](int64_t i, T value) {
    if constexpr (sizeof(T) == kVectorBytes)
      store_vector(to + i, value);
    else
      to[i] = value;
  };
  int64_t column = lane;
  for (; column + (kLoads - 1) * kWarp < columns; column += kLoads * kWarp) {
    T values[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) values[i] = load(column + i * kWarp);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) store(column + i * kWarp, values[i]);
  }
  for (; column < columns; column += kWarp) store(column, load(column));
}

template <typename T, int width>
__global__ void __launch_bounds__(kThreads)
    concat_rows_gradient_kernel(Pieces pieces, Matrix<const T> dy, Matrix<T> dx, int64_t columns) {
  expect_threads<kThreads>();
  if (blockIdx.x == 0 && blockIdx.y == 0) check_pieces(pieces);
  const int lane = threadIdx.x % kWarp;
  const int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarp;
  if (row >= pieces.source_rows) return;
  constexpr int kSteps = kColumns / width;
  for (int64_t first = (int64_t{blockIdx.y} * kWarp * kSteps + lane) * width; first - lane * width < columns;
       first += int64_t{gridDim.y} * kWarp * kColumns) {
    float sums[kSteps][width] = {};
    for (int64_t base = 0; base < pieces.count; base += kWarp) {
      // The row of dy that this lane's piece copied the row to, when it did.
      int64_t copy = -1;
      if (base + lane < pieces.count) {
        const int64_t begin = pieces.offsets[base + lane], end = pieces.offsets[base + lane + 1];
        const int64_t start = pieces.starts[base + lane], at = begin + row - start;
        if (row >= start && at < end && at >= 0 && at < pieces.rows) copy = at;
      }
      unsigned found = __ballot_sync(kFullMask, copy >= 0);
      while (found != 0) {
        // The order of the pieces is that of the lanes.
        const T* from = dy.row(__shfl_sync(kFullMask, static_cast<int>(copy), __ffs(static_cast<int>(found)) - 1));
        found &= found - 1;
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
          const int64_t column = first + i * kWarp * width;
          if (column < columns) {
            float x[width];
            load_floats(from + column, x);
#pragma unroll
            for (int j = 0; j < width; ++j) sums[i][j] += x[j];
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int64_t column = first + i * kWarp * width;
      if (column < columns) store_floats(dx.row(row) + column, sums[i]);
    }
  }
}

class PiecesKernel : public CudaKernel {
 protected:
  PiecesKernel(const OperatorRow& row, CudaDevice& device, int64_t count, int64_t rows, int64_t source_rows)
      : CudaKernel(row, device),
        count_(count),
        rows_(rows),
        source_rows_(source_rows),
        complaint_(device.complaint(std::string(row.name) +
                                    ": offsets must rise from 0 to the number of rows, and every piece must lie within x")) {}

  Pieces pieces(const KernelCall& call) const {
    return {call.inputs[1].as<const int32_t>(),
            call.inputs[2].as<const int32_t>(),
            count_,
            rows_,
            source_rows_,
            device().complaints(),
            complaint_};
  }
  // Without rows, pieces are checked too.
  static unsigned blocks(int64_t rows) { return std::max(1u, blocks_for(rows, kRowsPerBlock)); }

  int64_t count_, rows_, source_rows_;

 private:
  int complaint_;
};

class ConcatRowsKernel final : public PiecesKernel {
 public:
  ConcatRowsKernel(const Arguments& a, CudaDevice& device)
      : PiecesKernel(operators::concat_rows, device, a[1].shape[0], a.integer("rows"), a[0].shape[0]),
        element_bytes_(static_cast<int64_t>(size_of(a[0].dtype))),
        columns_(a[0].columns()) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    const int64_t elements = kVectorBytes / element_bytes_;
    if (takes_vectors(call.inputs[0], elements) && takes_vectors(call.outputs[0], elements)) {
      start<uint4>(call, stream);
    } else if (element_bytes_ == 4) {
      start<uint32_t>(call, stream);
    } else {
      start<uint16_t>(call, stream);
    }
  }

  template <typename T>
  void start(const KernelCall& call, const Stream& stream) {
    const auto units = [&](int64_t elements) { return elements * element_bytes_ / static_cast<int64_t>(sizeof(T)); };
    launch<concat_rows_kernel<T>>(stream, dim3(blocks(rows_)), kThreads, 0, pieces(call),
                                  Matrix<const T>{call.inputs[0].as<const T>(), units(call.inputs[0].row_stride)},
                                  Matrix<T>{call.outputs[0].as<T>(), units(call.outputs[0].row_stride)}, units(columns_));
  }

  int64_t element_bytes_, columns_;
};

class ConcatRowsGradientKernel final : public PiecesKernel {
 public:
  ConcatRowsGradientKernel(const Arguments& a, CudaDevice& device)
      : PiecesKernel(operators::concat_rows_gradient, device, a[1].shape[0], a[0].shape[0], a.integer("rows")),
        dtype_(a[0].dtype),
        columns_(a[0].columns()) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    with_type(dtype_, [&]<typename T>(T) {
      constexpr int kVector = kVectorBytes / sizeof(T);
      takes_vectors(call.inputs[0], kVector) && takes_vectors(call.outputs[0], kVector) ? start<T, kVector>(call, stream)
                                                                                        : start<T, 1>(call, stream);
    });
  }

  template <typename T, int width>
  void start(const KernelCall& call, const Stream& stream) {
    const unsigned column_blocks = along_yz(std::max<int64_t>(1, divided_up(columns_, kWarp * kColumns)));
    launch<concat_rows_gradient_kernel<T, width>>(stream, dim3(blocks(source_rows_), column_blocks), kThreads, 0, pieces(call),
                                                  matrix<const T>(call.inputs[0]), matrix<T>(call.outputs[0]), columns_);
  }

  DType dtype_;
  int64_t columns_;
};

}  // namespace

std::unique_ptr<Kernel> make_concat_rows(const Arguments& a, CudaDevice& device) {
  return std::make_unique<ConcatRowsKernel>(a, device);
}

std::unique_ptr<Kernel> make_concat_rows_gradient(const Arguments& a, CudaDevice& device) {
  return std::make_unique<ConcatRowsGradientKernel>(a, device);
}

}  // namespace omni_id::cuda
