// The masked patch scatter and its gradient:
//   patch_scatter: y[i, p] = positions[p] + (rows[i, k] where visible[i, k] = p, mask_token where p is not visible)
//   patch_scatter_gradient: drows[i, k] = dy[i, visible[i, k]], dpositions[p] = Σ_i dy[i, p],
//     dmask_token = Σ dy[i, p] over the p that are not visible
// Bound by memory. A scatter writes y (4 bytes an element) and reads rows, and positions from the second-level cache; its
// gradient reads dy once (4) for all three results. The arithmetic is an addition an element, or two.
//
// Strategy: patches.cuh, and
//   scatter: a warp a row, kUnrolled accesses of 16 bytes a lane under way where widths and addresses allow it.
//   gradient: a warp kWarp · 4 columns of one patch in all images, kImages loads under way at a time; what is the mask token's
//     lies in the workspace [patches, width] and is summed over the patches by a second kernel, in which a block takes 32
//     columns, each of its warps every eighth patch.
// Shared memory: 1 KB in the sum. Registers: 48 in the scatter, 66 in its gradient; no spills on sm_80, 86, 89, 90, 100 and
// 120.
#include "cuda/operators/patches.cuh"

namespace omni_id::cuda {

namespace {

constexpr int kUnrolled = 2;  // accesses of a lane under way in a scatter: 1 KB a warp
// On a multiprocessor: 80 registers a thread. Left to itself, the compiler aims at more and spills.
constexpr int kLeastBlocks = 3;
constexpr int kImages = 4;  // whose rows are under way in the gradient
constexpr const char* kMustHold = "visible must hold numbers of the image's patches, none of them twice";

// kColumns neighbouring values of a row, one or four.
template <int kColumns>
struct Values {
  float of[kColumns];
};

template <int kColumns>
__device__ __forceinline__ Values<kColumns> load(const float* from) {
  if constexpr (kColumns == 1) return {{from[0]}};
  if constexpr (kColumns == 4) {
    const float4 v = load_vector<float4>(from);
    return {{v.x, v.y, v.z, v.w}};
  }
}
template <int kColumns>
__device__ __forceinline__ Values<kColumns> load(const bf16* from) {
  if constexpr (kColumns == 1) return {{to_float(from[0])}};
  if constexpr (kColumns == 4) {
    const uint2 v = load_vector<uint2>(from);
    return {{low_bf16(v.x), high_bf16(v.x), low_bf16(v.y), high_bf16(v.y)}};
  }
}
template <int kColumns>
__device__ __forceinline__ void store(float* to, const Values<kColumns>& v) {
  if constexpr (kColumns == 1) to[0] = v.of[0];
  if constexpr (kColumns == 4) store_vector(to, make_float4(v.of[0], v.of[1], v.of[2], v.of[3]));
}
template <int kColumns>
__device__ __forceinline__ void store(bf16* to, const Values<kColumns>& v) {
  if constexpr (kColumns == 1) to[0] = from_float<bf16>(v.of[0]);
  if constexpr (kColumns == 4) store_vector(to, make_uint2(pack_bf16(v.of[0], v.of[1]), pack_bf16(v.of[2], v.of[3])));
}
template <int kColumns>
__device__ __forceinline__ void add_to(Values<kColumns>& sum, const Values<kColumns>& v) {
#pragma unroll
  for (int i = 0; i < kColumns; ++i) sum.of[i] += v.of[i];
}

template <typename T, int kColumns>
__global__ void __launch_bounds__(kPatchThreads, kLeastBlocks)
    scatter_kernel(const T* __restrict__ rows, int64_t stride, Visible visible, const float* __restrict__ mask_token,
                   const float* __restrict__ positions, int64_t positions_stride, int64_t count, int patches, int width,
                   float* __restrict__ out, int64_t out_stride) {
  const int lane = threadIdx.x % kWarp, patch = blockIdx.x * kPatchWarps + threadIdx.x / kWarp;
  if (patch >= patches) return;
  const float* position = positions + patch * positions_stride;
  for (int64_t image = blockIdx.y; image < count; image += gridDim.y) {
    const int32_t* of_image = visible.patches + image * visible.per_image;
    if (patch == 0) check_range(visible, of_image, patches);
    bool others;
    const int k = row_of(visible, of_image, patch, &others);
    if (others && lane == 0) visible.complain();
    float* to = out + (image * patches + patch) * out_stride;
    const T* from = rows + (image * visible.per_image + max(k, 0)) * stride;
#pragma unroll kUnrolled
    for (int j = lane * kColumns; j < width; j += kWarp * kColumns) {
      Values<kColumns> sum = load<kColumns>(position + j);
      add_to(sum, k < 0 ? load<kColumns>(mask_token + j) : load<kColumns>(from + j));
      store(to + j, sum);
    }
  }
}

template <typename T, int kColumns>
__global__ void __launch_bounds__(kPatchThreads, kLeastBlocks)
    scatter_gradient_kernel(const float* dy, int64_t stride, Visible visible, int64_t count, int patches, int width, T* drows,
                            int64_t drows_stride, float* dpositions, int64_t dpositions_stride, float* masked) {
  const int lane = threadIdx.x % kWarp, patch = blockIdx.x * kPatchWarps + threadIdx.x / kWarp;
  if (patch >= patches) return;
  const int j = (blockIdx.y * kWarp + lane) * kColumns;
  Values<kColumns> sum = {}, masked_sum = {};
  for (int64_t first = 0; first < count; first += kImages) {
    Values<kColumns> v[kImages] = {};
#pragma unroll
    for (int i = 0; i < kImages; ++i) {
      if (first + i < count && j < width) v[i] = load<kColumns>(dy + ((first + i) * patches + patch) * stride + j);
    }
#pragma unroll
    for (int i = 0; i < kImages; ++i) {
      const int64_t image = first + i;
      if (image >= count) break;
      const int32_t* of_image = visible.patches + image * visible.per_image;
      if (patch == 0 && blockIdx.y == 0) check_range(visible, of_image, patches);
      bool others;
      const int k = row_of(visible, of_image, patch, &others);
      if (others && lane == 0) visible.complain();
      add_to(sum, v[i]);
      if (k < 0) {
        add_to(masked_sum, v[i]);
      } else if (j < width) {
        store(drows + (image * visible.per_image + k) * drows_stride + j, v[i]);
      }
    }
  }
  if (j >= width) return;
  store(dpositions + patch * dpositions_stride + j, sum);
  store(masked + int64_t{patch} * width + j, masked_sum);
}

// out[j] = Σ_p masked[p, j].
__global__ void __launch_bounds__(kPatchThreads) mask_token_kernel(const float* masked, int patches, int width, float* out) {
  OMNI_ID_SHARED(float, sums, kPatchThreads);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, j = blockIdx.x * kWarp + lane;
  float sum = 0.0f;
  if (j < width) {
#pragma unroll 4
    for (int patch = warp; patch < patches; patch += kPatchWarps) sum += masked[int64_t{patch} * width + j];
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp != 0 || j >= width) return;
  for (int other = 1; other < kPatchWarps; ++other) sum += sums[other * kWarp + lane];
  out[j] = sum;
}

// Whether four columns at a time may be loaded or stored: the first of each row is aligned to them.
bool by_fours(const TensorView& view) {
  const size_t size = 4 * size_of(view.type.dtype);
  return view.type.columns() % 4 == 0 && view.row_stride % 4 == 0 && reinterpret_cast<uintptr_t>(view.data) % size == 0;
}

// body(ColumnsConstant<…>{}).
template <int kColumns>
struct ColumnsConstant {
  static constexpr int value = kColumns;
};
template <typename Body>
void with_columns(bool fours, Body&& body) {
  if (fours) {
    body(ColumnsConstant<4>{});
  } else {
    body(ColumnsConstant<1>{});
  }
}

class PatchScatterKernel final : public PatchKernel {
 public:
  PatchScatterKernel(const Arguments& a, CudaDevice& device)
      : PatchKernel(operators::patch_scatter, device, a[1].shape[0] / a.integer("images"), kMustHold),
        rows_(a[0].dtype),
        images_(a.integer("images")),
        patches_(checked_int(a[3].shape[0], operators::patch_scatter.name, "patches")),
        width_(checked_int(a[3].columns(), operators::patch_scatter.name, "columns")) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    const TensorView &rows = call.inputs[0], &mask_token = call.inputs[2], &positions = call.inputs[3], &out = call.outputs[0];
    const bool fours = by_fours(rows) && by_fours(mask_token) && by_fours(positions) && by_fours(out);
    with_type(rows_, [&]<typename T>(T) {
      with_columns(fours, [&]<typename C>(C) {
        launch<scatter_kernel<T, C::value>>(stream, dim3(blocks_for(patches_, kPatchWarps), along_yz(images_)), kPatchThreads,
                                            0, rows.as<const T>(), rows.row_stride, visible(call.inputs[1]),
                                            mask_token.as<const float>(), positions.as<const float>(), positions.row_stride,
                                            images_, patches_, width_, out.as<float>(), out.row_stride);
      });
    });
  }

  DType rows_;
  int64_t images_;
  int patches_, width_;
};

class PatchScatterGradientKernel final : public PatchKernel {
 public:
  PatchScatterGradientKernel(const Arguments& a, CudaDevice& device)
      : PatchKernel(operators::patch_scatter_gradient, device, a[1].shape[0] / a.integer("images"), kMustHold),
        output_(dtype_named(a.text("output"))),
        images_(a.integer("images")),
        patches_(checked_int(a[0].shape[0] / images_, operators::patch_scatter_gradient.name, "patches")),
        width_(checked_int(a[0].columns(), operators::patch_scatter_gradient.name, "columns")) {
    require(width_ <= kMostAlongYZ * kWarp, operators::patch_scatter_gradient.name,
            std::to_string(width_) + " columns, at most " + std::to_string(kMostAlongYZ * kWarp) + " on CUDA");
  }

  size_t workspace_bytes() const override {
    return static_cast<size_t>(patches_) * static_cast<size_t>(width_) * sizeof(float);
  }

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    const TensorView &dy = call.inputs[0], &drows = call.outputs[0], &dpositions = call.outputs[2];
    float* masked = reinterpret_cast<float*>(call.workspace);
    const bool fours = by_fours(dy) && by_fours(drows) && by_fours(dpositions);
    with_type(output_, [&]<typename T>(T) {
      with_columns(fours, [&]<typename C>(C) {
        launch<scatter_gradient_kernel<T, C::value>>(
            stream, dim3(blocks_for(patches_, kPatchWarps), blocks_for(width_, kWarp * C::value)), kPatchThreads, 0,
            dy.as<const float>(), dy.row_stride, visible(call.inputs[1]), images_, patches_, width_, drows.as<T>(),
            drows.row_stride, dpositions.as<float>(), dpositions.row_stride, masked);
      });
    });
    launch<mask_token_kernel>(stream, dim3(blocks_for(width_, kWarp)), kPatchThreads, 0, masked, patches_, width_,
                              call.outputs[1].as<float>());
  }

  DType output_;
  int64_t images_;
  int patches_, width_;
};

}  // namespace

std::unique_ptr<Kernel> make_patch_scatter(const Arguments& a, CudaDevice& device) {
  return std::make_unique<PatchScatterKernel>(a, device);
}

std::unique_ptr<Kernel> make_patch_scatter_gradient(const Arguments& a, CudaDevice& device) {
  return std::make_unique<PatchScatterGradientKernel>(a, device);
}

}  // namespace omni_id::cuda
