// gate_gradient, of y = gate ⊙ activation(value), where each gate has rows_per_gate rows:
//   d = gate ⊙ dy,  dgate = Σ dy ⊙ activation(value) over the rows of each gate
// dy, value and d [rows, columns] in f32 or bf16, gate and dgate f32 [gates, columns].
//
// Strategy: a block takes 32 rows of one gate, each of its warps every kWarps-th of them, and a warp's width of columns: four
// neighbouring ones a thread where addresses and strides allow it, else one. A thread reads all of its rows, kRowsOfWarp,
// before it writes the first, so that enough loads are on their way, and d may lie where dy does. The warps' sums are added in
// order in shared memory (4 KB), and the blocks' partial sums, which lie in the workspace, in order by partial_sums.cu, all
// gates at once: the sum depends on nothing but the sizes. Registers: at most 67.
// Cost: reads dy and value and writes d, 4 + 4 + 2 bytes an element between a residual stream in f32 and products in bf16; of
// partial sums a 32nd of 4 bytes, written and read; 3 flops. Bound by memory.
#include "cuda/operators/launching.h"
#include "cuda/operators/partial_sums.h"
#include "cuda/operators/vectors.cuh"
#include "operators/gates.h"

namespace omni_id::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kRowsOfWarp = 4, kRowsPerBlock = kWarps * kRowsOfWarp;

template <typename Dy, typename Value, typename D>
struct GateGradient {
  Matrix<const Dy> dy;
  Matrix<const float> gate;
  Matrix<const Value> value;  // without data: sums are not wanted
  Matrix<D> d;
  float* partial;  // [chunks, gates, columns]
  int64_t gates, rows_per_gate, columns;
  unsigned chunks;  // of kRowsPerBlock rows, of each gate
  Activation activation;
};

template <int width>
__device__ __forceinline__ void activate_all(Activation activation, float (&x)[width]) {
  if (activation == Activation::gelu) {
#pragma unroll
    for (int i = 0; i < width; ++i) x[i] = activate<Activation::gelu>(x[i]);
  } else if (activation == Activation::quick_gelu) {
#pragma unroll
    for (int i = 0; i < width; ++i) x[i] = activate<Activation::quick_gelu>(x[i]);
  }
}

// Blocks lie along x alone: those across the columns first, then the chunks of a gate, then the gates.
template <typename Dy, typename Value, typename D, int width>
__global__ void __launch_bounds__(kThreads) gate_gradient_kernel(GateGradient<Dy, Value, D> g) {
  expect_threads<kThreads>();
  OMNI_ID_SHARED(float, sums, kThreads* width);  // [warp, element, lane]: lanes are neighbours, and meet no bank twice
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const unsigned across = static_cast<unsigned>((g.columns + kWarp * width - 1) / (kWarp * width));
  const int64_t column = (int64_t{blockIdx.x % across} * kWarp + lane) * width;
  const unsigned gate = blockIdx.x / across / g.chunks, chunk = blockIdx.x / across % g.chunks;
  const int64_t first = gate * g.rows_per_gate + int64_t{chunk} * kRowsPerBlock;
  const int64_t end = min((gate + 1) * g.rows_per_gate, first + kRowsPerBlock);
  float total[width] = {};
  if (column < g.columns) {
    float dy[kRowsOfWarp][width], value[kRowsOfWarp][width], factor[width];
#pragma unroll
    for (int i = 0; i < kRowsOfWarp; ++i) {
      const int64_t row = first + i * kWarps + warp;
      if (row < end) {
        load_floats(g.dy.row(row) + column, dy[i]);
        if (g.value.data) load_floats(g.value.row(row) + column, value[i]);
      }
    }
    load_floats(g.gate.row(gate) + column, factor);
#pragma unroll
    for (int i = 0; i < kRowsOfWarp; ++i) {
      const int64_t row = first + i * kWarps + warp;
      if (row < end) {
        if (g.value.data) {
          activate_all(g.activation, value[i]);
#pragma unroll
          for (int j = 0; j < width; ++j) total[j] += dy[i][j] * value[i][j];
        }
#pragma unroll
        for (int j = 0; j < width; ++j) dy[i][j] *= factor[j];
        store_floats(g.d.row(row) + column, dy[i]);
      }
    }
  }
  if (!g.value.data) return;
#pragma unroll
  for (int j = 0; j < width; ++j) sums[(warp * width + j) * kWarp + lane] = total[j];
  __syncthreads();
  if (warp == 0 && column < g.columns) {
    for (int other = 1; other < kWarps; ++other) {
#pragma unroll
      for (int j = 0; j < width; ++j) total[j] += sums[(other * width + j) * kWarp + lane];
    }
    store_floats(g.partial + (chunk * g.gates + gate) * g.columns + column, total);
  }
}

class GateGradientKernel final : public CudaKernel {
 public:
  GateGradientKernel(const Arguments& a, CudaDevice& device)
      : CudaKernel(operators::gate_gradient, device),
        dy_(a[0].dtype),
        value_(a.has(2) ? a[2].dtype : DType::f32),
        d_(dtype_named(a.text("output"))),
        has_sums_(a.has(2)),
        gates_(a[1].shape[0]),
        rows_per_gate_(rows_per_gate(a[1], a[0].shape[0])),
        columns_(a[0].columns()),
        activation_(Activation::none) {
    with_activation(a.text("activation"), [&]<typename A>(A) { activation_ = A::value; });
  }

  size_t workspace_bytes() const override {
    return has_sums_ ? static_cast<size_t>(chunks() * gates_ * columns_) * sizeof(float) : 0;
  }

 private:
  int64_t chunks() const { return divided_up(rows_per_gate_, kRowsPerBlock); }

  void enqueue(const KernelCall& call, const Stream& stream) override {
    bool vectors = takes_vectors(call.outputs[0], 4);
    for (const TensorView& input : call.inputs) vectors = vectors && (!input.data || takes_vectors(input, 4));
    with_type(dy_, [&]<typename Dy>(Dy) {
      with_type(value_, [&]<typename Value>(Value) {
        with_type(
            d_, [&]<typename D>(D) { vectors ? start<Dy, Value, D, 4>(call, stream) : start<Dy, Value, D, 1>(call, stream); });
      });
    });
    if (!has_sums_) return;
    const TensorView& dgate = call.outputs[1];
    add_partial_sums(stream, {reinterpret_cast<const float*>(call.workspace), chunks(), gates_ * columns_, gates_ * columns_,
                              nullptr, dgate.as<float>(), columns_, dgate.row_stride});
  }

  template <typename Dy, typename Value, typename D, int width>
  void start(const KernelCall& call, const Stream& stream) {
    const GateGradient<Dy, Value, D> g{matrix<const Dy>(call.inputs[0]),
                                       matrix<const float>(call.inputs[1]),
                                       matrix<const Value>(call.inputs[2]),
                                       matrix<D>(call.outputs[0]),
                                       reinterpret_cast<float*>(call.workspace),
                                       gates_,
                                       rows_per_gate_,
                                       columns_,
                                       static_cast<unsigned>(chunks()),
                                       activation_};
    const unsigned blocks = blocks_of(gates_ * chunks(), blocks_for(columns_, kWarp * width), "gate_gradient");
    launch<gate_gradient_kernel<Dy, Value, D, width>>(stream, dim3(blocks), kThreads, 0, g);
  }

  DType dy_, value_, d_;
  bool has_sums_;
  int64_t gates_, rows_per_gate_, columns_;
  Activation activation_;
};

}  // namespace

std::unique_ptr<Kernel> make_gate_gradient(const Arguments& a, CudaDevice& device) {
  return std::make_unique<GateGradientKernel>(a, device);
}

}  // namespace omni_id::cuda
