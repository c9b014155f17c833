// The masked reconstruction loss and its gradient, f32; shapes and layouts stand in native/operators/masked_l1.cpp:
//   masked_l1: loss = Σ |prediction − target| · mask / normalizer
//   masked_l1_gradient: dprediction = dloss · sign(prediction − target) · mask / normalizer
//
// Strategy: threads follow the prediction, whose rows are the patches, so that it and its gradient are moved by 16 bytes a
// thread where they can be; target and mask are gathered from the images: a warp's elements come from a few lines of a patch,
// of which every sector is used through the first-level cache. A row is shared by the lanes of a warp or, when a patch is
// small, by a part of them (a power of two), so that division finds image and patch once a row and pixel and channel once a
// vector. Sums are of `width` elements in f32 and in double precision from there: one of each thread, of each block (2 KB of
// shared memory) into the workspace, and of all blocks by a second launch of one block. Cost: reads 8 bytes an element and 4 of
// the mask a pixel; the gradient writes 4 more. Registers: at most 50.
#include <bit>

#include "cuda/operators/launching.h"
#include "cuda/operators/sums.cuh"
#include "cuda/operators/vectors.cuh"
#include "operators/patches.h"

namespace omni_id::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kThreadsOfLast = 1024;  // the block that adds up all the others' sums

struct Loss {
  Matrix<const float> prediction;
  const float *target, *mask, *normalizer;
  int64_t rows, patches, patch_columns, height, width;
  int channels, patch, depth, lanes;
};

// Calls body(row, element, predictions, targets, masks) for each run of `width` elements of the thread's row.
template <int width, typename Body>
__device__ __forceinline__ void each_run(const Loss& g, const Body& body) {
  const int64_t row = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / g.lanes;
  if (row >= g.rows) return;
  const int64_t image = row / g.patches, index = row % g.patches, area = g.height * g.width;
  const int64_t corner = index / g.patch_columns * g.patch * g.width + index % g.patch_columns * g.patch;
  const float *target = g.target + image * g.channels * area + corner, *mask = g.mask + image * area + corner;
  for (int element = threadIdx.x % g.lanes * width; element < g.depth; element += g.lanes * width) {
    float prediction[width], targets[width], masks[width];
    load_floats(g.prediction.row(row) + element, prediction);
    int channel = element % g.channels, x = element / g.channels % g.patch, y = element / g.channels / g.patch;
#pragma unroll
    for (int i = 0; i < width; ++i) {
      targets[i] = target[channel * area + y * g.width + x];
      masks[i] = mask[y * g.width + x];
      if (++channel == g.channels) channel = 0, ++x;
      if (x == g.patch) x = 0, ++y;
    }
    body(row, element, prediction, targets, masks);
  }
}

template <int width>
__global__ void __launch_bounds__(kThreads) masked_l1_kernel(Loss g, double* partial) {
  expect_threads<kThreads>();
  OMNI_ID_SHARED(double, scratch, kThreads);
  double sum = 0.0;
  each_run<width>(g,
                  [&](int64_t, int, const float(&prediction)[width], const float(&target)[width], const float(&mask)[width]) {
                    float of_run = 0.0f;
#pragma unroll
                    for (int i = 0; i < width; ++i) of_run += fabsf(prediction[i] - target[i]) * mask[i];
                    sum += static_cast<double>(of_run);
                  });
  sum = sum_of_block<kThreads>(sum, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreadsOfLast)
    add_losses_kernel(const double* partial, int64_t blocks, const float* normalizer, float* loss) {
  expect_threads<kThreadsOfLast>();
  OMNI_ID_SHARED(double, scratch, kThreadsOfLast);
  const double sum = sum_of_partials<kThreadsOfLast>(partial, blocks, scratch);
  if (threadIdx.x == 0) *loss = static_cast<float>(sum / static_cast<double>(*normalizer));
}

// `gradient` may lie where the prediction does: each element is read before it is written, by the same thread.
template <int width>
__global__ void __launch_bounds__(kThreads)
    masked_l1_gradient_kernel(Loss g, const float* loss_gradient, Matrix<float> gradient) {
  expect_threads<kThreads>();
  const float scale = *loss_gradient / *g.normalizer;
  each_run<width>(g, [&](int64_t row, int element, const float(&prediction)[width], const float(&target)[width],
                         const float(&mask)[width]) {
    float out[width];
#pragma unroll
    for (int i = 0; i < width; ++i) {
      const float difference = prediction[i] - target[i];
      // What is not finite stays so: then its difference from itself is NaN.
      const float sign = (difference > 0.0f ? 1.0f : difference < 0.0f ? -1.0f : 0.0f) + (difference - difference);
      out[i] = sign * (mask[i] * scale);
    }
    store_floats(gradient.row(row) + element, out);
  });
}

class MaskedL1Base : public CudaKernel {
 protected:
  MaskedL1Base(const OperatorRow& row, const Arguments& a, CudaDevice& device)
      : CudaKernel(row, device), grid_(patch_grid(a[1].shape, a.integer("patch"), false, row.name)) {
    // Elements of a patch are counted in 32 bits.
    require(grid_.depth() <= (1 << 30), row.name, "a patch of " + std::to_string(grid_.depth()) + " elements is too large");
  }

  int64_t rows() const { return grid_.images * grid_.patches(); }
  unsigned blocks(int width) const { return blocks_for(rows() * lanes(width), kThreads); }

  Loss loss(const KernelCall& call, int width) const {
    return {matrix<const float>(call.inputs[0]),
            call.inputs[1].as<const float>(),
            call.inputs[2].as<const float>(),
            call.inputs[3].as<const float>(),
            rows(),
            grid_.patches(),
            grid_.columns(),
            grid_.height,
            grid_.width,
            static_cast<int>(grid_.channels),
            static_cast<int>(grid_.patch),
            static_cast<int>(grid_.depth()),
            lanes(width)};
  }

 private:
  int lanes(int width) const {
    const auto runs = static_cast<uint64_t>(divided_up(grid_.depth(), width));
    return static_cast<int>(std::min<uint64_t>(kWarp, std::bit_ceil(runs)));
  }

  PatchGrid grid_;
};

class MaskedL1Kernel final : public MaskedL1Base {
 public:
  MaskedL1Kernel(const Arguments& a, CudaDevice& device) : MaskedL1Base(operators::masked_l1, a, device) {}

  // Single elements need the most blocks.
  size_t workspace_bytes() const override { return blocks(1) * sizeof(double); }

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    takes_vectors(call.inputs[0], 4) ? start<4>(call, stream) : start<1>(call, stream);
  }

  template <int width>
  void start(const KernelCall& call, const Stream& stream) {
    double* partial = reinterpret_cast<double*>(call.workspace);
    launch<masked_l1_kernel<width>>(stream, dim3(blocks(width)), kThreads, 0, loss(call, width), partial);
    launch<add_losses_kernel>(stream, dim3(1), kThreadsOfLast, 0, partial, int64_t{blocks(width)},
                              call.inputs[3].as<const float>(), call.outputs[0].as<float>());
  }
};

class MaskedL1GradientKernel final : public MaskedL1Base {
 public:
  MaskedL1GradientKernel(const Arguments& a, CudaDevice& device) : MaskedL1Base(operators::masked_l1_gradient, a, device) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    const bool vectors = takes_vectors(call.inputs[0], 4) && takes_vectors(call.outputs[0], 4);
    vectors ? start<4>(call, stream) : start<1>(call, stream);
  }

  template <int width>
  void start(const KernelCall& call, const Stream& stream) {
    launch<masked_l1_gradient_kernel<width>>(stream, dim3(blocks(width)), kThreads, 0, loss(call, width),
                                             call.inputs[4].as<const float>(), matrix<float>(call.outputs[0]));
  }
};

}  // namespace

std::unique_ptr<Kernel> make_masked_l1(const Arguments& a, CudaDevice& device) {
  return std::make_unique<MaskedL1Kernel>(a, device);
}

std::unique_ptr<Kernel> make_masked_l1_gradient(const Arguments& a, CudaDevice& device) {
  return std::make_unique<MaskedL1GradientKernel>(a, device);
}

}  // namespace omni_id::cuda
