// The masked patch scatter and its gradient:
//   patch_scatter: y[i, p] = positions[p] + (rows[i, k] where visible[i, k] = p, mask_token where p is not visible)
//   patch_scatter_gradient: drows[i, k] = dy[i, visible[i, k]], dpositions[p] = Σ_i dy[i, p],
//     dmask_token = Σ dy[i, p] over the p that are not visible
// Bound by memory. A scatter writes y (4 bytes an element) and reads rows, and positions from the second-level cache; its
// gradient reads dy once (4) for all three results. The arithmetic is an addition an element, or two.
//
// Strategy: patches.cuh, and
//   scatter: a warp a row, kUnrolled accesses of 16 bytes a lane under way where widths and addresses allow it.
//   gradient: a warp kWarp · 4 columns of one patch in a group of images, kImages loads under way at a time. Groups are as many
//     as fill a card, which depends on the sizes alone; their sums, and of each patch what is the mask token's, lie in the
//     workspace and are added up by partial_sums.cu: of 20 groups of 25 images, another sixth of the bytes.
// Registers: at most 56 in the scatter, 69 in its gradient.
#include "cuda/operators/partial_sums.h"
#include "cuda/operators/patches.cuh"
#include "cuda/operators/vectors.cuh"

namespace omni_id::cuda {

namespace {

constexpr int kUnrolled = 2;  // accesses of a lane under way in a scatter: 1 KB a warp
// On a multiprocessor: 80 registers a thread. Left to itself, the compiler aims at more and spills.
constexpr int kLeastBlocks = 3;
constexpr int kImages = 4;  // whose rows are under way in the gradient
// Blocks of the gradient that fill a card, and images that are worth a group's sums.
constexpr int64_t kWantedBlocks = 512, kLeastImages = 16;
constexpr const char* kMustHold = "visible must hold numbers of the image's patches, none of them twice";

template <int width>
__device__ __forceinline__ void add_to(float (&sum)[width], const float (&x)[width]) {
#pragma unroll
  for (int i = 0; i < width; ++i) sum[i] += x[i];
}

// width: neighbours that a lane moves at once, one or four.
template <typename T, int width>
__global__ void __launch_bounds__(kPatchThreads, kLeastBlocks)
    scatter_kernel(const T* __restrict__ rows, int64_t stride, Visible visible, const float* __restrict__ mask_token,
                   const float* __restrict__ positions, int64_t positions_stride, int64_t count, int patches, int columns,
                   float* __restrict__ out, int64_t out_stride) {
  expect_threads<kPatchThreads>();
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
    for (int j = lane * width; j < columns; j += kWarp * width) {
      float sum[width], token[width];
      load_floats(position + j, sum);
      if (k < 0) {
        load_floats(mask_token + j, token);
      } else {
        load_floats(from + j, token);
      }
      add_to(sum, token);
      store_floats(to + j, sum);
    }
  }
}

// Where groups of images leave their sums.
struct Groups {
  float* masked;     // [groups, patches, columns]: what is the mask token's
  float* positions;  // likewise, or the result of the only group
  int64_t positions_of_group, positions_stride;
};

template <typename T, int width>
__global__ void __launch_bounds__(kPatchThreads, kLeastBlocks)
    scatter_gradient_kernel(const float* dy, int64_t stride, Visible visible, int64_t count, int64_t images_of_group,
                            int patches, int columns, T* drows, int64_t drows_stride, Groups groups) {
  expect_threads<kPatchThreads>();
  const int lane = threadIdx.x % kWarp, patch = blockIdx.x * kPatchWarps + threadIdx.x / kWarp;
  if (patch >= patches) return;
  const int j = (blockIdx.y * kWarp + lane) * width;
  const int64_t begin = blockIdx.z * images_of_group, end = min(count, begin + images_of_group);
  float sum[width] = {}, masked_sum[width] = {};
  for (int64_t first = begin; first < end; first += kImages) {
    float x[kImages][width] = {};
#pragma unroll
    for (int i = 0; i < kImages; ++i) {
      if (first + i < end && j < columns) load_floats(dy + ((first + i) * patches + patch) * stride + j, x[i]);
    }
#pragma unroll
    for (int i = 0; i < kImages; ++i) {
      const int64_t image = first + i;
      if (image >= end) break;
      const int32_t* of_image = visible.patches + image * visible.per_image;
      if (patch == 0 && blockIdx.y == 0) check_range(visible, of_image, patches);
      bool others;
      const int k = row_of(visible, of_image, patch, &others);
      if (others && lane == 0) visible.complain();
      add_to(sum, x[i]);
      if (k >= 0) {
        if (j < columns) store_floats(drows + (image * visible.per_image + k) * drows_stride + j, x[i]);
      } else {
        add_to(masked_sum, x[i]);
      }
    }
  }
  if (j >= columns) return;
  store_floats(groups.positions + blockIdx.z * groups.positions_of_group + patch * groups.positions_stride + j, sum);
  store_floats(groups.masked + (int64_t{blockIdx.z} * patches + patch) * columns + j, masked_sum);
}

class PatchScatterKernel final : public PatchKernel {
 public:
  PatchScatterKernel(const Arguments& a, CudaDevice& device)
      : PatchKernel(operators::patch_scatter, device, a[1].shape[0] / a.integer("images"), kMustHold),
        rows_(a[0].dtype),
        images_(a.integer("images")),
        patches_(checked_int(a[3].shape[0], operators::patch_scatter.name, "patches")),
        columns_(checked_int(a[3].columns(), operators::patch_scatter.name, "columns")) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    bool vectors = takes_vectors(call.outputs[0], 4);
    for (const size_t i : {0, 2, 3}) vectors = vectors && takes_vectors(call.inputs[i], 4);
    with_type(rows_, [&]<typename T>(T) { vectors ? start<T, 4>(call, stream) : start<T, 1>(call, stream); });
  }

  template <typename T, int width>
  void start(const KernelCall& call, const Stream& stream) {
    const TensorView &rows = call.inputs[0], &positions = call.inputs[3], &out = call.outputs[0];
    launch<scatter_kernel<T, width>>(stream, dim3(blocks_for(patches_, kPatchWarps), along_yz(images_)), kPatchThreads, 0,
                                     rows.as<const T>(), rows.row_stride, visible(call.inputs[1]),
                                     call.inputs[2].as<const float>(), positions.as<const float>(), positions.row_stride,
                                     images_, patches_, columns_, out.as<float>(), out.row_stride);
  }

  DType rows_;
  int64_t images_;
  int patches_, columns_;
};

class PatchScatterGradientKernel final : public PatchKernel {
 public:
  PatchScatterGradientKernel(const Arguments& a, CudaDevice& device)
      : PatchKernel(operators::patch_scatter_gradient, device, a[1].shape[0] / a.integer("images"), kMustHold),
        output_(dtype_named(a.text("output"))),
        images_(a.integer("images")),
        patches_(checked_int(a[0].shape[0] / images_, operators::patch_scatter_gradient.name, "patches")),
        columns_(checked_int(a[0].columns(), operators::patch_scatter_gradient.name, "columns")) {
    require(columns_ <= kMostAlongYZ * kWarp, operators::patch_scatter_gradient.name,
            std::to_string(columns_) + " columns, at most " + std::to_string(kMostAlongYZ * kWarp) + " on CUDA");
    const int64_t blocks = divided_up(patches_, kPatchWarps) * divided_up(columns_, 4 * kWarp);
    const int64_t most = std::max<int64_t>(1, images_ / kLeastImages);
    images_of_group_ = divided_up(images_, std::clamp<int64_t>(kWantedBlocks / std::max<int64_t>(1, blocks), 1, most));
    groups_ = divided_up(images_, images_of_group_);
  }

  size_t workspace_bytes() const override {
    return static_cast<size_t>((groups_ == 1 ? 1 : 2) * groups_ * patches_ * columns_) * sizeof(float);
  }

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    const bool vectors =
        takes_vectors(call.inputs[0], 4) && takes_vectors(call.outputs[0], 4) && takes_vectors(call.outputs[2], 4);
    const TensorView& dpositions = call.outputs[2];
    const int64_t of_group = int64_t{patches_} * columns_;
    Groups groups{reinterpret_cast<float*>(call.workspace), dpositions.as<float>(), 0, dpositions.row_stride};
    if (groups_ > 1) groups = {groups.masked, groups.masked + groups_ * of_group, of_group, columns_};
    with_type(output_, [&]<typename T>(T) { vectors ? start<T, 4>(call, groups, stream) : start<T, 1>(call, groups, stream); });
    const PartialSums masked{groups.masked, groups_ * patches_, columns_, columns_, nullptr, call.outputs[1].as<float>()};
    const PartialSums positions{groups.positions,     groups_, of_group, of_group, nullptr, dpositions.as<float>(), columns_,
                                dpositions.row_stride};
    add_partial_sums(stream, masked, groups_ > 1 ? positions : PartialSums{});
  }

  template <typename T, int width>
  void start(const KernelCall& call, const Groups& groups, const Stream& stream) {
    const TensorView &dy = call.inputs[0], &drows = call.outputs[0];
    const dim3 blocks(blocks_for(patches_, kPatchWarps), blocks_for(columns_, kWarp * width), static_cast<unsigned>(groups_));
    launch<scatter_gradient_kernel<T, width>>(stream, blocks, kPatchThreads, 0, dy.as<const float>(), dy.row_stride,
                                              visible(call.inputs[1]), images_, images_of_group_, patches_, columns_,
                                              drows.as<T>(), drows.row_stride, groups);
  }

  DType output_;
  int64_t images_, images_of_group_, groups_;
  int patches_, columns_;
};

}  // namespace

std::unique_ptr<Kernel> make_patch_scatter(const Arguments& a, CudaDevice& device) {
  return std::make_unique<PatchScatterKernel>(a, device);
}

std::unique_ptr<Kernel> make_patch_scatter_gradient(const Arguments& a, CudaDevice& device) {
  return std::make_unique<PatchScatterGradientKernel>(a, device);
}

}  // namespace omni_id::cuda
