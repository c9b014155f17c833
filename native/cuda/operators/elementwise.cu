// Operators on single elements and on columns:
//   add: y = a + b
//   activation_gradient: dx = dy ⊙ activation'(x), of the type of dy
//   column_sums: y[j] = Σ x[i, j] (+ sum[j])
// All are bound by memory: add and activation_gradient read two values an element and write one (12 bytes in f32, 6 in bf16).
//
// Strategy: one thread an element, columns along the threads, so that a warp's accesses are neighbours; rows along the grid,
// since rows need not follow each other without gaps. Column sums take kRowsPerBlock rows of kColumnsPerBlock columns a block,
// each warp every kWarps-th row; the warps' sums are added in order in shared memory (kWarps · 32 floats), and the blocks'
// partial sums, which lie in the workspace, in order by a second launch: the sum depends on nothing but the matrix.
#include "cuda/operators/launching.h"

namespace omni_id::cuda {

namespace {

constexpr int kThreads = 256;

template <typename T>
struct Matrix {
  T* data;
  int64_t stride;  // elements between rows
};

template <typename T>
Matrix<T> matrix(const TensorView& view) {
  return {view.as<T>(), view.row_stride};
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_kernel(Matrix<const T> a, Matrix<const T> b, Matrix<T> out, int64_t rows, int64_t columns) {
  const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (column >= columns) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    out.data[row * out.stride + column] =
        from_float<T>(to_float(a.data[row * a.stride + column]) + to_float(b.data[row * b.stride + column]));
  }
}

template <typename T, typename X, Activation activation>
__global__ void __launch_bounds__(kThreads)
    activation_gradient_kernel(Matrix<const T> dy, Matrix<const X> x, Matrix<T> dx, int64_t rows, int64_t columns) {
  const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (column >= columns) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const float slope = derivative<activation>(to_float(x.data[row * x.stride + column]));
    dx.data[row * dx.stride + column] = from_float<T>(to_float(dy.data[row * dy.stride + column]) * slope);
  }
}

constexpr int kColumnsPerBlock = kWarp;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kRowsPerBlock = 512;

// partial[block, column] = Σ of the block's rows.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    column_sums_kernel(Matrix<const T> x, int64_t rows, int64_t columns, float* partial) {
  OMNI_ID_SHARED(float, sums, kThreads);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t column = int64_t{blockIdx.x} * kColumnsPerBlock + lane;
  const int64_t end = min(rows, (int64_t{blockIdx.y} + 1) * kRowsPerBlock);
  float sum = 0.0f;
  if (column < columns) {
    for (int64_t row = int64_t{blockIdx.y} * kRowsPerBlock + warp; row < end; row += kWarps) {
      sum += to_float(x.data[row * x.stride + column]);
    }
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp == 0 && column < columns) {
    for (int other = 1; other < kWarps; ++other) sum += sums[other * kWarp + lane];
    partial[int64_t{blockIdx.y} * columns + column] = sum;
  }
}

__global__ void __launch_bounds__(kThreads)
    add_partial_sums_kernel(const float* partial, int64_t blocks, int64_t columns, const float* sum, float* out) {
  const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (column >= columns) return;
  float total = sum ? sum[column] : 0.0f;
  for (int64_t block = 0; block < blocks; ++block) total += partial[block * columns + column];
  out[column] = total;
}

unsigned grid_rows(int64_t rows) { return static_cast<unsigned>(std::min<int64_t>(rows, 65535)); }

class AddKernel final : public CudaKernel {
 public:
  AddKernel(const Arguments& a, CudaDevice& device) : CudaKernel(operators::add, device), type_(a[0]) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    with_type(type_.dtype, [&]<typename T>(T) {
      launch<add_kernel<T>>(stream, dim3(blocks_for(type_.columns(), kThreads), grid_rows(type_.rows())), kThreads, 0,
                            matrix<const T>(call.inputs[0]), matrix<const T>(call.inputs[1]), matrix<T>(call.outputs[0]),
                            type_.rows(), type_.columns());
    });
  }

  TensorType type_;
};

class ActivationGradientKernel final : public CudaKernel {
 public:
  ActivationGradientKernel(const Arguments& a, CudaDevice& device)
      : CudaKernel(operators::activation_gradient, device),
        type_(a[0]),
        x_dtype_(a[1].dtype),
        activation_(a.text("activation")) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    const dim3 grid(blocks_for(type_.columns(), kThreads), grid_rows(type_.rows()));
    with_type(type_.dtype, [&]<typename T>(T) {
      with_type(x_dtype_, [&]<typename X>(X) {
        with_activation(activation_, [&]<typename A>(A) {
          launch<activation_gradient_kernel<T, X, A::value>>(stream, grid, kThreads, 0, matrix<const T>(call.inputs[0]),
                                                             matrix<const X>(call.inputs[1]), matrix<T>(call.outputs[0]),
                                                             type_.rows(), type_.columns());
        });
      });
    });
  }

  TensorType type_;
  DType x_dtype_;
  std::string activation_;
};

class ColumnSumsKernel final : public CudaKernel {
 public:
  ColumnSumsKernel(const Arguments& a, CudaDevice& device)
      : CudaKernel(operators::column_sums, device), dtype_(a[0].dtype), rows_(a[0].shape[0]), columns_(a[0].columns()) {}

  size_t workspace_bytes() const override { return static_cast<size_t>(blocks() * columns_) * sizeof(float); }

 private:
  int64_t blocks() const { return divided_up(rows_, kRowsPerBlock); }

  void enqueue(const KernelCall& call, const Stream& stream) override {
    float* partial = reinterpret_cast<float*>(call.workspace);
    with_type(dtype_, [&]<typename T>(T) {
      launch<column_sums_kernel<T>>(stream, dim3(blocks_for(columns_, kColumnsPerBlock), static_cast<unsigned>(blocks())),
                                    kThreads, 0, matrix<const T>(call.inputs[0]), rows_, columns_, partial);
    });
    launch<add_partial_sums_kernel>(stream, dim3(blocks_for(columns_, kThreads)), kThreads, 0, partial, blocks(), columns_,
                                    call.inputs[1].as<const float>(), call.outputs[0].as<float>());
  }

  DType dtype_;
  int64_t rows_, columns_;
};

}  // namespace

std::unique_ptr<Kernel> make_add(const Arguments& a, CudaDevice& device) { return std::make_unique<AddKernel>(a, device); }

std::unique_ptr<Kernel> make_activation_gradient(const Arguments& a, CudaDevice& device) {
  return std::make_unique<ActivationGradientKernel>(a, device);
}

std::unique_ptr<Kernel> make_column_sums(const Arguments& a, CudaDevice& device) {
  return std::make_unique<ColumnSumsKernel>(a, device);
}

}  // namespace omni_id::cuda
