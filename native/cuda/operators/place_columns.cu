// place_columns: y = sum, or zeros; y[:, column : column + n] += x
// x [rows, n], sum and y [rows, columns].
//
// Strategy: one thread an element of y, columns along the threads, rows along the grid. Cost: writes y and reads sum (4 or 2
// bytes an element each) and reads x. Registers: at most 38. It is rare: gradients of views that lie side by side are written
// in place (src/graph/backward.ts).
#include "cuda/operators/launching.h"
#include "cuda/operators/vectors.cuh"

namespace omni_id::cuda {

namespace {

constexpr int kThreads = 256;

// `sum` may be the memory of y: every element is read by the thread that writes it.
template <typename X, typename Y>
__global__ void __launch_bounds__(kThreads)
    place_columns_kernel(Matrix<const X> x, int64_t column, int64_t width, Matrix<const Y> sum, Matrix<Y> y, int64_t rows,
                         int64_t columns) {
  expect_threads<kThreads>();
  const int64_t j = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (j >= columns) return;
  const bool has_x = j >= column && j < column + width;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    float value = sum.data ? to_float(sum.row(row)[j]) : 0.0f;
    if (has_x) value += to_float(x.row(row)[j - column]);
    y.row(row)[j] = from_float<Y>(value);
  }
}

class PlaceColumnsKernel final : public CudaKernel {
 public:
  PlaceColumnsKernel(const Arguments& a, CudaDevice& device)
      : CudaKernel(operators::place_columns, device),
        x_(a[0]),
        y_(operators::place_columns.shapes(a)[0]),
        column_(a.integer("column")) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    const dim3 grid(blocks_for(y_.columns(), kThreads), along_yz(y_.rows()));
    with_type(x_.dtype, [&]<typename X>(X) {
      with_type(y_.dtype, [&]<typename Y>(Y) {
        launch<place_columns_kernel<X, Y>>(stream, grid, kThreads, 0, matrix<const X>(call.inputs[0]), column_, x_.columns(),
                                           matrix<const Y>(call.inputs[1]), matrix<Y>(call.outputs[0]), y_.rows(),
                                           y_.columns());
      });
    });
  }

  TensorType x_, y_;
  int64_t column_;
};

}  // namespace

std::unique_ptr<Kernel> make_place_columns(const Arguments& a, CudaDevice& device) {
  return std::make_unique<PlaceColumnsKernel>(a, device);
}

}  // namespace omni_id::cuda
