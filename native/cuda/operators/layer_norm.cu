// Layer norm over rows of n columns, x f32 [rows, n], and its gradient:
//   y = x̂ ⊙ weight + bias,  x̂ = (x − mean) · rstd,  rstd = 1 / sqrt(var + ε)                       y f32 or bf16
//   dx = (g − mean(g) − x̂ · mean(g ⊙ x̂)) · rstd (+ sum),  g = dy ⊙ weight                           dy f32 or bf16
//   dweight = Σ rows dy ⊙ x̂,  dbias = Σ rows dy
//
// Strategy: a row is read once and stays in registers; the variance is that of the differences from the mean (E[x²] − E[x]²
// would cancel). Accesses are of 4 elements a thread where addresses and strides allow it, of one elsewhere.
// - Forward, up to 1280 columns (ViT-H's): one warp a row, 8 rows a block, no shared memory and no barrier. Up to 8192: one
//   block a row with as many warps as its columns need at 16 a thread. Beyond: a block that reads its row three times.
// - Gradient, up to 256 columns: one warp goes through a group of rows, up to 4096 one block of n / 256 warps; each thread
//   keeps the sums over rows of its 8 columns, and reads the next row before it waits for the sums over this one. mean(g ⊙ x̂)
//   is Σ g (x − mean) · rstd / n, so that variance and both means of the gradient take one exchange. Groups are as many as keep
//   the processor busy and lie in the workspace, dweight beside dbias, to be added in order (partial_sums.cu): which rows meet
//   depends on their number alone.
// Registers: forward 8 to 40 values of the row a thread; gradient 8 values each of x, dy, the next x and dy, sum, weight,
// dweight, dbias: 28 to 100 and 92 to 128 in all. Shared memory: at most 3 floats a warp, twice.
// Cost: forward reads 4 bytes an element and writes 2 or 4, 8 flops; gradient reads 6 to 12 and writes 4 and, for groups of
// 4 rows, 2 more, which it reads again; 20 flops. Both are bound by memory.
#include "cuda/operators/launching.h"
#include "cuda/operators/partial_sums.h"
#include "cuda/operators/sums.cuh"
#include "cuda/operators/vectors.cuh"

namespace omni_id::cuda {

namespace {

constexpr int kThreads = 256;  // of a block whose warps take a row each, and of one that takes a row of any length
constexpr int kRowsPerBlock = kThreads / kWarp;
constexpr int kMostWarps = 16;  // of a block that takes one row in registers: 512 threads may have 128 registers each
constexpr int kMostThreads = kMostWarps * kWarp;

// Values of the row that a thread keeps: what rows of up to 256, 512 and 1280 columns take of a warp, and longer ones of a
// block.
constexpr int kFew = 8, kSome = 16, kMany = 40, kOfBlock = 16;
constexpr int kOfGradient = 8;
constexpr int64_t kGroups = 1024, kLeastRows = 4, kMostRows = 64;  // groups of rows wanted; rows a group

template <typename T>
struct Forward {
  Matrix<const float> x;
  const float *weight, *bias;
  Matrix<T> y;
  int64_t rows, columns;
  float epsilon;
};

template <typename T, int width, int kept, bool one_warp>
__global__ void __launch_bounds__(one_warp ? kThreads : kMostThreads) layer_norm_kernel(Forward<T> g) {
  expect_threads<one_warp ? kThreads : kMostThreads>();
  OMNI_ID_SHARED(float, scratch, 2 * kMostWarps);
  const int thread = one_warp ? threadIdx.x % kWarp : threadIdx.x, step = (one_warp ? kWarp : blockDim.x) * width;
  const int columns = static_cast<int>(g.columns), first = thread * width;
  const int64_t row = one_warp ? int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarp : blockIdx.x;
  if (row >= g.rows) return;
  constexpr int kSteps = kept / width;
  float x[kSteps][width];
  float total[1] = {0.0f};
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    if (first + i * step < columns) load_floats(g.x.row(row) + first + i * step, x[i]);
  }
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    if (first + i * step < columns) {
#pragma unroll
      for (int j = 0; j < width; ++j) total[0] += x[i][j];
    }
  }
  add_over_row<one_warp>(total, scratch);
  const float mean = total[0] / static_cast<float>(columns);
  total[0] = 0.0f;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    if (first + i * step < columns) {
#pragma unroll
      for (int j = 0; j < width; ++j) {
        x[i][j] -= mean;
        total[0] += x[i][j] * x[i][j];
      }
    }
  }
  add_over_row<one_warp>(total, scratch + kMostWarps);
  const float rstd = 1.0f / sqrtf(total[0] / static_cast<float>(columns) + g.epsilon);
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int column = first + i * step;
    if (column < columns) {
      float weight[width], bias[width];
      load_floats(g.weight + column, weight);
      load_floats(g.bias + column, bias);
#pragma unroll
      for (int j = 0; j < width; ++j) x[i][j] = x[i][j] * rstd * weight[j] + bias[j];
      store_floats(g.y.row(row) + column, x[i]);
    }
  }
}

// Mean and 1 / sqrt(variance + ε) of a row that the block reads twice.
__device__ __forceinline__ float2 statistics(const float* x, int64_t columns, float epsilon, float* scratch) {
  float total[1] = {0.0f};
  for (int64_t i = threadIdx.x; i < columns; i += kThreads) total[0] += x[i];
  add_over_row<false>(total, scratch);
  const float mean = total[0] / static_cast<float>(columns);
  total[0] = 0.0f;
  for (int64_t i = threadIdx.x; i < columns; i += kThreads) total[0] += (x[i] - mean) * (x[i] - mean);
  add_over_row<false>(total, scratch + kRowsPerBlock);
  return make_float2(mean, 1.0f / sqrtf(total[0] / static_cast<float>(columns) + epsilon));
}

template <typename T>
__global__ void __launch_bounds__(kThreads) layer_norm_wide_kernel(Forward<T> g) {
  expect_threads<kThreads>();
  OMNI_ID_SHARED(float, scratch, 2 * kRowsPerBlock);
  const float* x = g.x.row(blockIdx.x);
  const float2 of_row = statistics(x, g.columns, g.epsilon, scratch);
  for (int64_t i = threadIdx.x; i < g.columns; i += kThreads) {
    g.y.row(blockIdx.x)[i] = from_float<T>((x[i] - of_row.x) * of_row.y * g.weight[i] + g.bias[i]);
  }
}

template <typename T>
struct Backward {
  Matrix<const T> dy;
  Matrix<const float> x;
  const float* weight;
  Matrix<const float> sum;  // without data: none; it may be dx
  Matrix<float> dx;
  float* partial;  // [groups, dweight beside dbias, columns]
  int64_t rows, columns, rows_per_group;
  float epsilon;
};

template <typename T, int width, bool one_warp>
__global__ void __launch_bounds__(one_warp ? kThreads : kMostThreads) layer_norm_gradient_kernel(Backward<T> g) {
  expect_threads<one_warp ? kThreads : kMostThreads>();
  OMNI_ID_SHARED(float, scratch, 4 * kMostWarps);
  const int thread = one_warp ? threadIdx.x % kWarp : threadIdx.x, step = (one_warp ? kWarp : blockDim.x) * width;
  const int columns = static_cast<int>(g.columns), first = thread * width;
  const int64_t group = one_warp ? int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarp : blockIdx.x;
  const int64_t begin = group * g.rows_per_group, end = min(g.rows, begin + g.rows_per_group);
  if (begin >= end) return;
  const float count = static_cast<float>(columns);
  constexpr int kSteps = kOfGradient / width;
  float weight[kSteps][width], next_x[kSteps][width], weight_sums[kSteps][width] = {}, bias_sums[kSteps][width] = {};
  float next_dy[kSteps][width];
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int column = first + i * step;
    if (column < columns) {
      load_floats(g.weight + column, weight[i]);
      load_floats(g.x.row(begin) + column, next_x[i]);
      load_floats(g.dy.row(begin) + column, next_dy[i]);
    }
  }
  for (int64_t row = begin; row < end; ++row) {
    float x[kSteps][width], dy[kSteps][width], dx[kSteps][width];
    float mean[1] = {0.0f};
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int column = first + i * step;
      if (column < columns) {
#pragma unroll
        for (int j = 0; j < width; ++j) {
          x[i][j] = next_x[i][j];
          dy[i][j] = next_dy[i][j];
          dx[i][j] = 0.0f;
          mean[0] += x[i][j];
        }
        if (g.sum.data) load_floats(g.sum.row(row) + column, dx[i]);
        if (row + 1 < end) {
          load_floats(g.x.row(row + 1) + column, next_x[i]);
          load_floats(g.dy.row(row + 1) + column, next_dy[i]);
        }
      }
    }
    add_over_row<one_warp>(mean, scratch);
    mean[0] /= count;
    float totals[3] = {0.0f, 0.0f, 0.0f};  // of squared differences, of g, of g times the difference
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      if (first + i * step < columns) {
#pragma unroll
        for (int j = 0; j < width; ++j) {
          x[i][j] -= mean[0];
          const float scaled = dy[i][j] * weight[i][j];
          totals[0] += x[i][j] * x[i][j];
          totals[1] += scaled;
          totals[2] += scaled * x[i][j];
        }
      }
    }
    add_over_row<one_warp>(totals, scratch + kMostWarps);
    const float rstd = 1.0f / sqrtf(totals[0] / count + g.epsilon);
    const float g_mean = totals[1] / count, gx_mean = totals[2] / count * rstd;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int column = first + i * step;
      if (column < columns) {
#pragma unroll
        for (int j = 0; j < width; ++j) {
          const float normal = x[i][j] * rstd;
          weight_sums[i][j] += dy[i][j] * normal;
          bias_sums[i][j] += dy[i][j];
          dx[i][j] += (dy[i][j] * weight[i][j] - g_mean - normal * gx_mean) * rstd;
        }
        store_floats(g.dx.row(row) + column, dx[i]);
      }
    }
  }
  float* sums = g.partial + group * 2 * g.columns;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int column = first + i * step;
    if (column < columns) {
      store_floats(sums + column, weight_sums[i]);
      store_floats(sums + columns + column, bias_sums[i]);
    }
  }
}

// The sums over a group's rows grow in the workspace, each column's by one thread.
template <typename T>
__global__ void __launch_bounds__(kThreads) layer_norm_gradient_wide_kernel(Backward<T> g) {
  expect_threads<kThreads>();
  OMNI_ID_SHARED(float, scratch, 4 * kRowsPerBlock);
  const int64_t begin = blockIdx.x * g.rows_per_group, end = min(g.rows, begin + g.rows_per_group);
  float *weight_sums = g.partial + int64_t{blockIdx.x} * 2 * g.columns, *bias_sums = weight_sums + g.columns;
  for (int64_t i = threadIdx.x; i < g.columns; i += kThreads) weight_sums[i] = bias_sums[i] = 0.0f;
  for (int64_t row = begin; row < end; ++row) {
    const float* x = g.x.row(row);
    const T* dy = g.dy.row(row);
    const float2 of_row = statistics(x, g.columns, g.epsilon, scratch);
    float totals[2] = {0.0f, 0.0f};
    for (int64_t i = threadIdx.x; i < g.columns; i += kThreads) {
      const float scaled = to_float(dy[i]) * g.weight[i];
      totals[0] += scaled;
      totals[1] += scaled * (x[i] - of_row.x) * of_row.y;
    }
    add_over_row<false>(totals, scratch + 2 * kRowsPerBlock);
    const float g_mean = totals[0] / static_cast<float>(g.columns), gx_mean = totals[1] / static_cast<float>(g.columns);
    for (int64_t i = threadIdx.x; i < g.columns; i += kThreads) {
      const float of_y = to_float(dy[i]), normal = (x[i] - of_row.x) * of_row.y;
      const float dx = (of_y * g.weight[i] - g_mean - normal * gx_mean) * of_row.y;
      weight_sums[i] += of_y * normal;
      bias_sums[i] += of_y;
      g.dx.row(row)[i] = g.sum.data ? dx + g.sum.row(row)[i] : dx;
    }
  }
}

class LayerNormKernel final : public CudaKernel {
 public:
  LayerNormKernel(const Arguments& a, CudaDevice& device)
      : CudaKernel(operators::layer_norm, device),
        output_(dtype_named(a.text("output"))),
        rows_(a[0].shape[0]),
        columns_(a[0].columns()),
        epsilon_(static_cast<float>(a.number("epsilon"))) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    bool vectors = takes_vectors(call.outputs[0], 4);
    for (const TensorView& input : call.inputs) vectors = vectors && takes_vectors(input, 4);
    with_type(output_, [&]<typename T>(T) {
      const Forward<T> g{matrix<const float>(call.inputs[0]),
                         call.inputs[1].as<const float>(),
                         call.inputs[2].as<const float>(),
                         matrix<T>(call.outputs[0]),
                         rows_,
                         columns_,
                         epsilon_};
      vectors ? start<T, 4>(g, stream) : start<T, 1>(g, stream);
    });
  }

  template <typename T, int width>
  void start(const Forward<T>& g, const Stream& stream) {
    const dim3 warps(blocks_for(rows_, kRowsPerBlock)), blocks(static_cast<unsigned>(rows_));
    if (columns_ <= kWarp * kFew) {
      launch<layer_norm_kernel<T, width, kFew, true>>(stream, warps, kThreads, 0, g);
    } else if (columns_ <= kWarp * kSome) {
      launch<layer_norm_kernel<T, width, kSome, true>>(stream, warps, kThreads, 0, g);
    } else if (columns_ <= kWarp * kMany) {
      launch<layer_norm_kernel<T, width, kMany, true>>(stream, warps, kThreads, 0, g);
    } else if (columns_ <= kMostThreads * kOfBlock) {
      const unsigned threads = blocks_for(columns_, kWarp * kOfBlock) * kWarp;
      launch<layer_norm_kernel<T, width, kOfBlock, false>>(stream, blocks, threads, 0, g);
    } else {
      launch<layer_norm_wide_kernel<T>>(stream, blocks, kThreads, 0, g);
    }
  }

  DType output_;
  int64_t rows_, columns_;
  float epsilon_;
};

class LayerNormGradientKernel final : public CudaKernel {
 public:
  LayerNormGradientKernel(const Arguments& a, CudaDevice& device)
      : CudaKernel(operators::layer_norm_gradient, device),
        dtype_(a[0].dtype),
        rows_(a[1].shape[0]),
        columns_(a[1].columns()),
        rows_per_group_(std::clamp(divided_up(rows_, kGroups), kLeastRows, kMostRows)),
        epsilon_(static_cast<float>(a.number("epsilon"))) {}

  size_t workspace_bytes() const override { return static_cast<size_t>(groups() * 2 * columns_) * sizeof(float); }

 private:
  int64_t groups() const { return divided_up(rows_, rows_per_group_); }

  void enqueue(const KernelCall& call, const Stream& stream) override {
    float* partial = reinterpret_cast<float*>(call.workspace);
    bool vectors = takes_vectors(call.outputs[0], 4);
    for (const TensorView& input : call.inputs) vectors = vectors && (!input.data || takes_vectors(input, 4));
    with_type(dtype_, [&]<typename T>(T) {
      const Backward<T> g{matrix<const T>(call.inputs[0]),
                          matrix<const float>(call.inputs[1]),
                          call.inputs[2].as<const float>(),
                          matrix<const float>(call.inputs[3]),
                          matrix<float>(call.outputs[0]),
                          partial,
                          rows_,
                          columns_,
                          rows_per_group_,
                          epsilon_};
      vectors ? start<T, 4>(g, stream) : start<T, 1>(g, stream);
    });
    const PartialSums weights{partial, groups(), 2 * columns_, columns_, nullptr, call.outputs[1].as<float>()};
    const PartialSums biases{partial + columns_, groups(), 2 * columns_, columns_, nullptr, call.outputs[2].as<float>()};
    add_partial_sums(stream, weights, biases);
  }

  template <typename T, int width>
  void start(const Backward<T>& g, const Stream& stream) {
    const dim3 blocks(static_cast<unsigned>(groups()));
    if (columns_ <= kWarp * kOfGradient) {
      launch<layer_norm_gradient_kernel<T, width, true>>(stream, dim3(blocks_for(groups(), kRowsPerBlock)), kThreads, 0, g);
    } else if (columns_ <= kMostThreads * kOfGradient) {
      const unsigned threads = blocks_for(columns_, kWarp * kOfGradient) * kWarp;
      launch<layer_norm_gradient_kernel<T, width, false>>(stream, blocks, threads, 0, g);
    } else {
      launch<layer_norm_gradient_wide_kernel<T>>(stream, blocks, kThreads, 0, g);
    }
  }

  DType dtype_;
  int64_t rows_, columns_, rows_per_group_;
  float epsilon_;
};

}  // namespace

std::unique_ptr<Kernel> make_layer_norm(const Arguments& a, CudaDevice& device) {
  return std::make_unique<LayerNormKernel>(a, device);
}

std::unique_ptr<Kernel> make_layer_norm_gradient(const Arguments& a, CudaDevice& device) {
  return std::make_unique<LayerNormGradientKernel>(a, device);
}

}  // namespace omni_id::cuda
