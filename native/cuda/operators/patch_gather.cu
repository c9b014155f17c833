// The masked patch gather and its gradient:
//   patch_gather: images [images, channels, height, width] → rows [images · K, channels · patch²]; row i · K + k is patch
//     visible[i · K + k] of image i, all patches in their order without `visible`
//   patch_gather_gradient: the rows back in their places; what is not visible is 0, what is visible twice a sum
// Bound by memory. A gather reads what is visible and writes it (8 bytes an element in f32, 6 to bf16); its gradient writes the
// images (4) and reads the rows, and adds where a patch is visible twice.
//
// Strategy: patches.cuh, and
//   gather: a block a row, a thread an element in the row's order. A warp writes 32 neighbours; what it reads are lines of one
//     patch, of all channels, which it uses up.
//   gradient: a block a line of patches of one channel, at most kTilePatches of them; it looks up their rows, then each warp
//     writes whole lines of pixels.
// Shared memory: 256 bytes for the rows of a tile's patches in the gradient. Registers: at most 40.
#include "cuda/operators/divisor.cuh"
#include "cuda/operators/patches.cuh"
#include "operators/patches.h"

namespace omni_id::cuda {

namespace {

constexpr int kTilePatches = 32;  // of a line of patches: 448 pixels of CLIP's

struct Grid {
  int channels, height, width, patch, columns, patches;
  Divisor by_patch, by_area, by_channels, by_columns;

  explicit Grid(const PatchGrid& grid)
      : channels(static_cast<int>(grid.channels)),
        height(static_cast<int>(grid.height)),
        width(static_cast<int>(grid.width)),
        patch(static_cast<int>(grid.patch)),
        columns(static_cast<int>(grid.columns())),
        patches(static_cast<int>(grid.patches())),
        by_patch(grid.patch),
        by_area(grid.patch * grid.patch),
        by_channels(grid.channels),
        by_columns(grid.columns()) {}
  __device__ int depth() const { return channels * patch * patch; }
  __device__ int64_t image_elements() const { return int64_t{channels} * height * width; }
};

template <typename T, bool channels_first>
__global__ void __launch_bounds__(kPatchThreads) gather_kernel(const float* __restrict__ images, int64_t count, Grid grid,
                                                               Visible visible, T* __restrict__ out, int64_t out_stride) {
  expect_threads<kPatchThreads>();
  const int k = blockIdx.x;
  for (int64_t image = blockIdx.y; image < count; image += gridDim.y) {
    const int64_t row = image * visible.per_image + k;
    const int patch = visible.patches ? visible.patches[row] : k;
    if (patch < 0 || patch >= grid.patches) {
      if (threadIdx.x == 0) visible.complain();
      continue;
    }
    const int top = grid.by_columns.quotient(patch);
    const float* from = images + image * grid.image_elements() + int64_t{top} * grid.patch * grid.width +
                        (patch - top * grid.columns) * grid.patch;
    for (int j = threadIdx.x; j < grid.depth(); j += blockDim.x) {
      const int outer = channels_first ? grid.by_area.quotient(j) : grid.by_channels.quotient(j);
      const int channel = channels_first ? outer : j - outer * grid.channels;
      const int within = channels_first ? j - outer * grid.patch * grid.patch : outer;
      const int y = grid.by_patch.quotient(within), x = within - y * grid.patch;
      out[row * out_stride + j] = from_float<T>(from[(int64_t{channel} * grid.height + y) * grid.width + x]);
    }
  }
}

template <typename T, bool channels_first>
__global__ void __launch_bounds__(kPatchThreads)
    gather_gradient_kernel(const T* __restrict__ rows, int64_t stride, int64_t count, Grid grid, Visible visible, int tiles,
                           Divisor by_tiles, float* __restrict__ out) {
  expect_threads<kPatchThreads>();
  OMNI_ID_SHARED(int, row_at, kTilePatches);    // k of the tile's patches, or −1
  OMNI_ID_SHARED(int, repeated, kTilePatches);  // whether there is another
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  // One line of patches more than there are whole ones takes the pixels below them.
  const int top = by_tiles.quotient(blockIdx.x), tile = blockIdx.x - top * tiles;
  const int first_column = tile * kTilePatches, first_x = first_column * grid.patch;
  const int end_x = tile == tiles - 1 ? grid.width : first_x + kTilePatches * grid.patch;
  const int lines = min(grid.patch, grid.height - top * grid.patch);
  for (int64_t image = blockIdx.z; image < count; image += gridDim.z) {
    const int32_t* of_image = visible.patches + image * visible.per_image;
    if (visible.patches && blockIdx.x == 0 && blockIdx.y == 0 && warp == 0) check_range(visible, of_image, grid.patches);
    __syncthreads();
    for (int i = warp; i < kTilePatches; i += kPatchWarps) {
      const int patch = top * grid.columns + first_column + i;
      const bool is_patch = first_column + i < grid.columns && patch < grid.patches;
      bool others = false;
      int k = visible.patches ? -1 : patch;
      if (is_patch && visible.patches) k = row_of(visible, of_image, patch, &others);
      if (lane == 0) {
        row_at[i] = is_patch ? k : -1;
        repeated[i] = others;
      }
    }
    __syncthreads();
    for (int channel = blockIdx.y; channel < grid.channels; channel += gridDim.y) {
      float* to = out + (image * grid.channels + channel) * grid.height * grid.width + int64_t{top} * grid.patch * grid.width;
      for (int y = warp; y < lines; y += kPatchWarps) {
        for (int x = first_x + lane; x < end_x; x += kWarp) {
          const int column = grid.by_patch.quotient(x), i = column - first_column;
          float sum = 0.0f;
          // Beyond the last whole patch there is none.
          if (column < grid.columns && row_at[i] >= 0) {
            const int within = y * grid.patch + x - column * grid.patch;
            const int j = channels_first ? channel * grid.patch * grid.patch + within : within * grid.channels + channel;
            const T* of_rows = rows + image * visible.per_image * stride + j;
            sum = to_float(of_rows[row_at[i] * stride]);
            for (int k = row_at[i] + 1; repeated[i] != 0 && k < visible.per_image; ++k) {
              if (of_image[k] == top * grid.columns + column) sum += to_float(of_rows[k * stride]);
            }
          }
          to[y * grid.width + x] = sum;
        }
      }
    }
  }
}

constexpr const char* kMustHold = "visible must hold numbers of the image's patches";

PatchGrid checked_grid(const PatchGrid& grid, const char* op) {
  checked_int(grid.channels * grid.height * grid.width, op, "elements of an image");
  return grid;
}

// body(std::true_type{}) or body(std::false_type{}): the order of a row's elements.
template <typename Body>
void with_order(bool channels_first, Body&& body) {
  if (channels_first) {
    body(std::true_type{});
  } else {
    body(std::false_type{});
  }
}

class PatchGatherKernel final : public PatchKernel {
 public:
  PatchGatherKernel(const Arguments& a, CudaDevice& device, const PatchGrid& grid)
      : PatchKernel(operators::patch_gather, device, a.has(1) ? a[1].shape[0] / grid.images : grid.patches(), kMustHold),
        output_(dtype_named(a.text("output"))),
        images_(grid.images),
        channels_first_(grid.channels_first),
        grid_(checked_grid(grid, operators::patch_gather.name)) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    const TensorView& out = call.outputs[0];
    // As many threads as make whole rounds of a row.
    const int64_t rounds = divided_up(out.type.columns(), kPatchThreads);
    const unsigned threads = blocks_for(divided_up(out.type.columns(), rounds), kWarp) * kWarp;
    const dim3 blocks(static_cast<unsigned>(per_image_), along_yz(images_));
    with_type(output_, [&]<typename T>(T) {
      with_order(channels_first_, [&]<typename First>(First) {
        launch<gather_kernel<T, First::value>>(stream, blocks, threads, 0, call.inputs[0].as<const float>(), images_, grid_,
                                               visible(call.inputs[1]), out.as<T>(), out.row_stride);
      });
    });
  }

  DType output_;
  int64_t images_;
  bool channels_first_;
  Grid grid_;
};

class PatchGatherGradientKernel final : public PatchKernel {
 public:
  PatchGatherGradientKernel(const Arguments& a, CudaDevice& device, const PatchGrid& grid)
      : PatchKernel(operators::patch_gather_gradient, device, a[0].shape[0] / grid.images, kMustHold),
        rows_(a[0].dtype),
        images_(grid.images),
        channels_first_(grid.channels_first),
        grid_(checked_grid(grid, operators::patch_gather_gradient.name)) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    const int tiles = static_cast<int>(divided_up(grid_.columns, kTilePatches));
    const dim3 blocks(static_cast<unsigned>(divided_up(grid_.height, grid_.patch) * tiles), along_yz(grid_.channels),
                      along_yz(images_));
    const TensorView& rows = call.inputs[0];
    with_type(rows_, [&]<typename T>(T) {
      with_order(channels_first_, [&]<typename First>(First) {
        launch<gather_gradient_kernel<T, First::value>>(stream, blocks, kPatchThreads, 0, rows.as<const T>(), rows.row_stride,
                                                        images_, grid_, visible(call.inputs[1]), tiles, Divisor(tiles),
                                                        call.outputs[0].as<float>());
      });
    });
  }

  DType rows_;
  int64_t images_;
  bool channels_first_;
  Grid grid_;
};

}  // namespace

std::unique_ptr<Kernel> make_patch_gather(const Arguments& a, CudaDevice& device) {
  const char* name = operators::patch_gather.name;
  return std::make_unique<PatchGatherKernel>(a, device,
                                             patch_grid(a[0].shape, a.integer("patch"), channels_first(a, name), name));
}

std::unique_ptr<Kernel> make_patch_gather_gradient(const Arguments& a, CudaDevice& device) {
  const char* name = operators::patch_gather_gradient.name;
  const Shape images{a.integer("images"), a.integer("channels"), a.integer("height"), a.integer("width")};
  return std::make_unique<PatchGatherGradientKernel>(a, device,
                                                     patch_grid(images, a.integer("patch"), channels_first(a, name), name));
}

}  // namespace omni_id::cuda
