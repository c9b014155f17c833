// The optimizer's operators over one vector of all parameters, f32; the formulas stand in native/operators/optimizer.cpp.
//
// gradient_norm: each block leaves the sum of squares of kElementsOfNorm gradients in the workspace, and one block adds these
// up: two launches, in an order that depends on the number of gradients alone. Four squares are added in f32, everything
// else in double precision, which consumer cards do at 1/64 of the f32 rate: a quarter of an operation an element stays hidden
// behind memory. Of segments that do not count nothing is read; those that do are taken one after the other by a whole block,
// one element a thread. Shared memory: 2 KB, and 8 KB in the last block; registers: at most 40. Cost: reads 4 bytes an element.
//
// adamw: one launch for all parameters and, with `average`, their moving average. Each thread takes 4 elements at a time of
// its block's kElementsOfStep, finds their segment (a parameter's tensor, with rate and decay of its own) by bisection once,
// and walks on from there. Every block checks the segments for itself before it writes anything: a few hundred numbers from the
// second-level cache against 114 KB of parameters. Where an earlier operator of the run has complained (device.h), nothing
// changes, as with a norm that is not finite: parameters are updated in place, and the host hears of it only when the run is
// over. Registers: at most 51. Cost: reads 16 and writes 12 bytes an element, 8 more for the average.
#include "cuda/operators/launching.h"
#include "cuda/operators/sums.cuh"
#include "cuda/operators/vectors.cuh"

namespace omni_id::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kThreadsOfLast = 1024;  // the block that adds up all the others' sums
constexpr int kWidth = 4;
// Loads in flight of a thread, and how often it takes so many.
constexpr int kLoads = 8, kRounds = 4;
constexpr int64_t kElementsOfNorm = int64_t{kThreads} * kWidth * kLoads * kRounds;
constexpr int64_t kElementsOfStep = int64_t{kThreads} * kWidth * 4;

// Segment s of a vector is [starts[s], starts[s + 1]).
struct Segments {
  const int32_t* starts;
  int32_t count;

  // Whether they rise from 0 to the number of elements; the same for all threads of a block.
  __device__ __forceinline__ bool hold(int64_t elements) const {
    bool bad = starts[0] != 0 || starts[count] != elements;
    for (int32_t s = threadIdx.x; s < count; s += kThreads) bad = bad || starts[s] > starts[s + 1];
    return !__syncthreads_or(bad);
  }

  // The last one that begins at i or before.
  __device__ __forceinline__ int32_t of(int64_t i) const {
    int32_t low = 0, high = count;
    while (low + 1 < high) {
      const int32_t middle = low + (high - low) / 2;
      (starts[middle] <= i ? low : high) = middle;
    }
    return low;
  }
};

template <int width>
__device__ __forceinline__ double sum_of_squares(const float* from) {
  float x[width], sum = 0.0f;
  load_floats(from, x);
#pragma unroll
  for (int i = 0; i < width; ++i) sum += x[i] * x[i];
  return static_cast<double>(sum);
}

template <int width>
__global__ void __launch_bounds__(kThreads) squares_kernel(const float* gradients, int64_t count, double* partial) {
  expect_threads<kThreads>();
  OMNI_ID_SHARED(double, scratch, kThreads);
  const int64_t begin = blockIdx.x * kElementsOfNorm, end = min(count, begin + kElementsOfNorm);
  double sum = 0.0;
  int64_t i = begin + int64_t{threadIdx.x} * width;
  constexpr int64_t kStep = int64_t{kThreads} * width;
  for (; i + (kLoads - 1) * kStep + width <= end; i += kLoads * kStep) {
#pragma unroll
    for (int load = 0; load < kLoads; ++load) sum += sum_of_squares<width>(gradients + i + load * kStep);
  }
  for (; i < end; i += kStep) {
    if (i + width <= end) {
      sum += sum_of_squares<width>(gradients + i);
    } else {
      for (int64_t j = i; j < end; ++j) sum += sum_of_squares<1>(gradients + j);
    }
  }
  sum = sum_of_block<kThreads>(sum, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// The same over those segments for which `counted` is not 0; what is not counted is not read.
__global__ void __launch_bounds__(kThreads)
    counted_squares_kernel(const float* gradients, int64_t count, Segments segments, const float* counted, double* partial,
                           int* complaints, int complaint) {
  expect_threads<kThreads>();
  OMNI_ID_SHARED(double, scratch, kThreads);
  double sum = 0.0;
  if (segments.hold(count)) {
    const int64_t begin = blockIdx.x * kElementsOfNorm, end = min(count, begin + kElementsOfNorm);
    // The block's threads take one segment after the other together.
    for (int32_t s = segments.of(begin); s < segments.count && segments.starts[s] < end; ++s) {
      if (counted[s] == 0.0f) continue;
      const int64_t last = min(end, int64_t{segments.starts[s + 1]});
#pragma unroll 8
      for (int64_t i = max(begin, int64_t{segments.starts[s]}) + threadIdx.x; i < last; i += kThreads) {
        sum += sum_of_squares<1>(gradients + i);
      }
    }
  } else if (blockIdx.x == 0 && threadIdx.x == 0) {
    atomicOr(complaints, complaint);
  }
  sum = sum_of_block<kThreads>(sum, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreadsOfLast) root_kernel(const double* partial, int64_t blocks, float* norm) {
  expect_threads<kThreadsOfLast>();
  OMNI_ID_SHARED(double, scratch, kThreadsOfLast);
  const double sum = sum_of_partials<kThreadsOfLast>(partial, blocks, scratch);
  if (threadIdx.x == 0) *norm = static_cast<float>(sqrt(sum));
}

struct Step {
  const float *values, *gradients, *first, *second, *average;  // average: may be null
  float *values_out, *first_out, *second_out, *average_out;    // may be the memory of the inputs
  const float *norm, *settings, *rates, *decays;
  Segments segments;
  int64_t count;
  float beta1, rest1, beta2, rest2, epsilon;
  int* complaints;
  int complaint;
};

// `width` elements from i on, or as many as there are.
template <int width>
__device__ __forceinline__ void load_some(const float* from, int64_t i, int64_t count, float (&to)[width]) {
  if (i + width <= count) {
    load_floats(from + i, to);
  } else {
#pragma unroll
    for (int j = 0; j < width; ++j) to[j] = i + j < count ? from[i + j] : 0.0f;
  }
}

template <int width>
__device__ __forceinline__ void store_some(float* to, int64_t i, int64_t count, const float (&x)[width]) {
  if (i + width <= count) {
    store_floats(to + i, x);
  } else {
#pragma unroll
    for (int j = 0; j < width; ++j) {
      if (i + j < count) to[i + j] = x[j];
    }
  }
}

template <int width>
__device__ __forceinline__ void keep(const float* from, float* to, int64_t i, int64_t count) {
  if (!to || from == to) return;
  float x[width];
  load_some(from, i, count, x);
  store_some(to, i, count, x);
}

template <int width>
__global__ void __launch_bounds__(kThreads) adamw_kernel(Step g) {
  expect_threads<kThreads>();
  if (!g.segments.hold(g.count)) {
    if (blockIdx.x == 0 && threadIdx.x == 0) atomicOr(g.complaints, g.complaint);
    return;
  }
  const int64_t begin = blockIdx.x * kElementsOfStep + int64_t{threadIdx.x} * width;
  const int64_t end = min(g.count, (blockIdx.x + int64_t{1}) * kElementsOfStep);
  constexpr int64_t kStep = int64_t{kThreads} * width;
  const float norm = *g.norm;
  if (norm - norm != 0.0f || *g.complaints != 0) {  // not finite, or made of what an earlier operator complains of
    for (int64_t i = begin; i < end; i += kStep) {
      keep<width>(g.values, g.values_out, i, g.count);
      keep<width>(g.first, g.first_out, i, g.count);
      keep<width>(g.second, g.second_out, i, g.count);
      keep<width>(g.average, g.average_out, i, g.count);
    }
    return;
  }
  if (begin >= end) return;
  const float most = g.settings[3], follow = 1.0f - g.settings[4];
  const float clip = most > 0.0f ? fminf(1.0f, most / (norm + 1e-6f)) : 1.0f, root_of_c2 = sqrtf(g.settings[2]);
  int32_t segment = g.segments.of(begin);
  int64_t segment_end = 0;
  float kept = 0.0f, step = 0.0f;
  for (int64_t i = begin; i < end; i += kStep) {
    float values[width], gradients[width], first[width], second[width], average[width] = {};
    load_some(g.values, i, g.count, values);
    load_some(g.gradients, i, g.count, gradients);
    load_some(g.first, i, g.count, first);
    load_some(g.second, i, g.count, second);
    if (g.average) load_some(g.average, i, g.count, average);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      if (i + j >= segment_end && i + j < g.count) {
        while (i + j >= g.segments.starts[segment + 1]) ++segment;
        segment_end = g.segments.starts[segment + 1];
        const float rate = g.settings[0] * g.rates[segment];
        kept = 1.0f - rate * g.decays[segment];
        step = rate / g.settings[1];
      }
      const float gradient = gradients[j] * clip;
      first[j] = first[j] * g.beta1 + gradient * g.rest1;
      second[j] = second[j] * g.beta2 + gradient * gradient * g.rest2;
      values[j] = values[j] * kept - first[j] * step / (sqrtf(second[j]) / root_of_c2 + g.epsilon);
      average[j] += (values[j] - average[j]) * follow;
    }
    store_some(g.values_out, i, g.count, values);
    store_some(g.first_out, i, g.count, first);
    store_some(g.second_out, i, g.count, second);
    if (g.average) store_some(g.average_out, i, g.count, average);
  }
}

// Vectors of 4 whatever the number of elements: the last ones are taken one by one.
bool aligned(const TensorView& view) { return reinterpret_cast<uintptr_t>(view.data) % kVectorBytes == 0; }

class GradientNormKernel final : public CudaKernel {
 public:
  GradientNormKernel(const Arguments& a, CudaDevice& device)
      : CudaKernel(operators::gradient_norm, device),
        count_(a[0].elements()),
        segment_count_(a.has(2) ? static_cast<int32_t>(a[2].elements()) : 0),
        complaint_(device.complaint("gradient_norm: segments must rise from 0 to the number of gradients")) {}

  size_t workspace_bytes() const override { return blocks() * sizeof(double); }

 private:
  unsigned blocks() const { return blocks_for(count_, kElementsOfNorm); }

  void enqueue(const KernelCall& call, const Stream& stream) override {
    double* partial = reinterpret_cast<double*>(call.workspace);
    const auto* gradients = call.inputs[0].as<const float>();
    if (segment_count_ > 0) {
      launch<counted_squares_kernel>(stream, dim3(blocks()), kThreads, 0, gradients, count_,
                                     Segments{call.inputs[1].as<const int32_t>(), segment_count_},
                                     call.inputs[2].as<const float>(), partial, device().complaints(), complaint_);
    } else if (aligned(call.inputs[0])) {
      launch<squares_kernel<kWidth>>(stream, dim3(blocks()), kThreads, 0, gradients, count_, partial);
    } else {
      launch<squares_kernel<1>>(stream, dim3(blocks()), kThreads, 0, gradients, count_, partial);
    }
    launch<root_kernel>(stream, dim3(1), kThreadsOfLast, 0, partial, int64_t{blocks()}, call.outputs[0].as<float>());
  }

  int64_t count_;
  int32_t segment_count_;
  int complaint_;
};

class AdamWKernel final : public CudaKernel {
 public:
  AdamWKernel(const Arguments& a, CudaDevice& device)
      : CudaKernel(operators::adamw, device),
        count_(a[0].elements()),
        segment_count_(static_cast<int32_t>(a[7].elements())),
        beta1_(a.number("beta1")),
        beta2_(a.number("beta2")),
        epsilon_(static_cast<float>(a.number("epsilon"))),
        complaint_(device.complaint("adamw: segments must rise from 0 to the number of parameters")) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    const auto input = [&](size_t i) { return call.inputs[i].as<const float>(); };
    const auto output = [&](size_t i) { return i < call.outputs.size() ? call.outputs[i].as<float>() : nullptr; };
    const Step g{.values = input(0),
                 .gradients = input(1),
                 .first = input(2),
                 .second = input(3),
                 .average = input(9),
                 .values_out = output(0),
                 .first_out = output(1),
                 .second_out = output(2),
                 .average_out = output(3),
                 .norm = input(4),
                 .settings = input(5),
                 .rates = input(7),
                 .decays = input(8),
                 .segments = {call.inputs[6].as<const int32_t>(), segment_count_},
                 .count = count_,
                 .beta1 = static_cast<float>(beta1_),
                 .rest1 = static_cast<float>(1.0 - beta1_),
                 .beta2 = static_cast<float>(beta2_),
                 .rest2 = static_cast<float>(1.0 - beta2_),
                 .epsilon = epsilon_,
                 .complaints = device().complaints(),
                 .complaint = complaint_};
    bool vectors = true;
    for (const size_t i : {0, 1, 2, 3, 9}) vectors = vectors && aligned(call.inputs[i]);
    for (const TensorView& view : call.outputs) vectors = vectors && aligned(view);
    const auto blocks = std::max(1u, blocks_for(count_, kElementsOfStep));  // without parameters, segments are checked too
    vectors ? launch<adamw_kernel<kWidth>>(stream, dim3(blocks), kThreads, 0, g)
            : launch<adamw_kernel<1>>(stream, dim3(blocks), kThreads, 0, g);
  }

  int64_t count_;
  int32_t segment_count_;
  double beta1_, beta2_;
  float epsilon_;
  int complaint_;
};

}  // namespace

std::unique_ptr<Kernel> make_gradient_norm(const Arguments& a, CudaDevice& device) {
  return std::make_unique<GradientNormKernel>(a, device);
}

std::unique_ptr<Kernel> make_adamw(const Arguments& a, CudaDevice& device) { return std::make_unique<AdamWKernel>(a, device); }

}  // namespace omni_id::cuda
