// Operators on single elements and on columns:
//   add: y = a + b
//   activation_gradient: dx = dy ⊙ activation'(x), of the type of dy
//   column_sums: y[j] = Σ x[i, j] (+ sum[j])
// All are bound by memory: add and activation_gradient read two values an element and write one (12 bytes in f32, 6 in bf16).
//
// Strategy: a thread takes 16 bytes of neighbouring columns where addresses and strides allow it (8 bytes of what is bf16
// beside f32), else one element; columns along the threads, so that a warp's accesses are neighbours; rows along the grid,
// unless they follow each other without gaps, when all are one. Column sums take kRowsPerBlock rows of a warp's width of
// columns a block, each warp every kWarps-th row; the warps' sums are added in order in shared memory (8 KB at 8 columns a
// thread), and the blocks' partial sums, which lie in the workspace, in order by partial_sums.cu: the sum depends on nothing
// but the matrix. Registers: at most 40.
#include "cuda/operators/launching.h"
#include "cuda/operators/partial_sums.h"
#include "cuda/operators/vectors.cuh"

namespace omni_id::cuda {

namespace {

constexpr int kThreads = 256;

// What a thread moves at once of matrices of these types.
template <typename... T>
constexpr int kWidth = ((sizeof(T) == 2) && ...) ? 8 : 4;

template <typename T, int width>
__global__ void __launch_bounds__(kThreads)
    add_kernel(Matrix<const T> a, Matrix<const T> b, Matrix<T> out, int64_t rows, int64_t columns) {
  expect_threads<kThreads>();
  const int64_t column = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * width;
  if (column >= columns) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    float x[width], y[width];
    load_floats(a.row(row) + column, x);
    load_floats(b.row(row) + column, y);
#pragma unroll
    for (int i = 0; i < width; ++i) x[i] += y[i];
    store_floats(out.row(row) + column, x);
  }
}

template <typename T, typename X, Activation activation, int width>
__global__ void __launch_bounds__(kThreads)
    activation_gradient_kernel(Matrix<const T> dy, Matrix<const X> x, Matrix<T> dx, int64_t rows, int64_t columns) {
  expect_threads<kThreads>();
  const int64_t column = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * width;
  if (column >= columns) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    float at[width], gradient[width];
    load_floats(x.row(row) + column, at);
    load_floats(dy.row(row) + column, gradient);
#pragma unroll
    for (int i = 0; i < width; ++i) gradient[i] *= derivative<activation>(at[i]);
    store_floats(dx.row(row) + column, gradient);
  }
}

constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kRowsPerBlock = 128;

// partial[block, column] = Σ of the block's rows. Blocks lie along x alone, those of the same rows behind each other: neither
// rows nor columns end at the 65,535 blocks that a grid has along y.
template <typename T, int width>
__global__ void __launch_bounds__(kThreads)
    column_sums_kernel(Matrix<const T> x, int64_t rows, int64_t columns, float* partial) {
  expect_threads<kThreads>();
  OMNI_ID_SHARED(float, sums, kThreads* width);  // [warp, element, lane]: lanes are neighbours, and meet no bank twice
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const unsigned across = static_cast<unsigned>((columns + kWarp * width - 1) / (kWarp * width));  // blocks
  const int64_t block = blockIdx.x / across, column = (int64_t{blockIdx.x % across} * kWarp + lane) * width;
  const int64_t end = min(rows, (block + 1) * kRowsPerBlock);
  float total[width] = {};
  if (column < columns) {
#pragma unroll 4
    for (int64_t row = block * kRowsPerBlock + warp; row < end; row += kWarps) {
      float values[width];
      load_floats(x.row(row) + column, values);
#pragma unroll
      for (int i = 0; i < width; ++i) total[i] += values[i];
    }
  }
#pragma unroll
  for (int i = 0; i < width; ++i) sums[(warp * width + i) * kWarp + lane] = total[i];
  __syncthreads();
  if (warp == 0 && column < columns) {
    for (int other = 1; other < kWarps; ++other) {
#pragma unroll
      for (int i = 0; i < width; ++i) total[i] += sums[(other * width + i) * kWarp + lane];
    }
    store_floats(partial + block * columns + column, total);
  }
}

// Rows and columns as kernels see them that treat all elements alike: one row when no view has gaps between its rows.
struct Elements {
  Elements(const TensorType& type, const KernelCall& call) : rows(type.rows()), columns(type.columns()) {
    bool gaps = false;
    for (const TensorView& view : call.inputs) gaps = gaps || view.row_stride != columns;
    for (const TensorView& view : call.outputs) gaps = gaps || view.row_stride != columns;
    if (!gaps) columns *= std::exchange(rows, std::min<int64_t>(rows, 1));
  }

  bool takes_vectors(const KernelCall& call, int64_t width) const {
    bool can = true;
    const auto judge = [&](TensorView view) {
      view.type.shape = {rows, columns};
      can = can && cuda::takes_vectors(view, width);
    };
    for (const TensorView& view : call.inputs) judge(view);
    for (const TensorView& view : call.outputs) judge(view);
    return can;
  }

  dim3 grid(int64_t width) const { return dim3(blocks_for(columns, kThreads * width), along_yz(rows)); }

  int64_t rows, columns;
};

class AddKernel final : public CudaKernel {
 public:
  AddKernel(const Arguments& a, CudaDevice& device) : CudaKernel(operators::add, device), type_(a[0]) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    const Elements elements(type_, call);
    with_type(type_.dtype, [&]<typename T>(T) {
      elements.takes_vectors(call, kWidth<T>) ? start<T, kWidth<T>>(elements, call, stream)
                                              : start<T, 1>(elements, call, stream);
    });
  }

  template <typename T, int width>
  void start(const Elements& elements, const KernelCall& call, const Stream& stream) {
    launch<add_kernel<T, width>>(stream, elements.grid(width), kThreads, 0, matrix<const T>(call.inputs[0]),
                                 matrix<const T>(call.inputs[1]), matrix<T>(call.outputs[0]), elements.rows, elements.columns);
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
    const Elements elements(type_, call);
    with_type(type_.dtype, [&]<typename T>(T) {
      with_type(x_dtype_, [&]<typename X>(X) {
        with_activation(activation_, [&]<typename A>(A) {
          constexpr int kMost = kWidth<T, X>;
          elements.takes_vectors(call, kMost) ? start<T, X, A::value, kMost>(elements, call, stream)
                                              : start<T, X, A::value, 1>(elements, call, stream);
        });
      });
    });
  }

  template <typename T, typename X, Activation activation, int width>
  void start(const Elements& elements, const KernelCall& call, const Stream& stream) {
    launch<activation_gradient_kernel<T, X, activation, width>>(
        stream, elements.grid(width), kThreads, 0, matrix<const T>(call.inputs[0]), matrix<const X>(call.inputs[1]),
        matrix<T>(call.outputs[0]), elements.rows, elements.columns);
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
    const float* partial = reinterpret_cast<const float*>(call.workspace);
    with_type(dtype_, [&]<typename T>(T) {
      takes_vectors(call.inputs[0], kWidth<T>) ? start<T, kWidth<T>>(call, stream) : start<T, 1>(call, stream);
    });
    add_partial_sums(stream,
                     {partial, blocks(), columns_, columns_, call.inputs[1].as<const float>(), call.outputs[0].as<float>()});
  }

  template <typename T, int width>
  void start(const KernelCall& call, const Stream& stream) {
    launch<column_sums_kernel<T, width>>(stream, dim3(blocks_of(blocks(), blocks_for(columns_, kWarp * width), "column_sums")),
                                         kThreads, 0, matrix<const T>(call.inputs[0]), rows_, columns_,
                                         reinterpret_cast<float*>(call.workspace));
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
