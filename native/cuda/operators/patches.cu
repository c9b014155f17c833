// The masked patch gather and scatter, and their gradients:
//   patch_gather: images [images, channels, height, width] → rows [images · K, channels · patch²]; row i · K + k is patch
//     visible[i · K + k] of image i, all patches in their order without `visible`
//   patch_gather_gradient: the rows back in their places; what is not visible is 0, what is visible twice a sum
//   patch_scatter: y[i, p] = positions[p] + (rows[i, k] where visible[i, k] = p, mask_token where p is not visible)
//   patch_scatter_gradient: drows[i, k] = dy[i, visible[i, k]], dpositions[p] = Σ_i dy[i, p],
//     dmask_token = Σ dy[i, p] over the p that are not visible
// All are bound by memory. A gather reads what is visible and writes it (8 bytes an element in f32, 6 to bf16); the gradient of
// a gather writes the images (4) and reads the rows; a scatter writes y (4) and reads rows, and positions from the second-level
// cache; its gradient reads dy once (4) for all three results. The arithmetic is an addition an element, or two.
//
// Strategy: every element of a result is one thread's, so that nothing is added atomically and the order of a sum depends on
// sizes alone. Where the result is larger than what is visible, a warp asks for each patch which row is its own: it reads its
// image's K indices 32 at a time and votes (`row_of`), K / 32 steps that stay in the first-level cache, and cheaper than a
// kernel of its own that turns the indices round.
//   gather: a block a row, a thread an element in the row's order. A warp writes 32 neighbours; what it reads are lines of one
//     patch, of all channels, which it uses up.
//   gather's gradient: a block a line of patches of one channel, at most kTilePatches of them; it looks up their rows, then
//     each warp writes whole lines of pixels.
//   scatter: a warp a row, kUnrolled accesses of 16 bytes a lane under way where widths and addresses allow it.
//   scatter's gradient: a warp kWarp · 4 columns of one patch in all images, kImages loads under way at a time; what is the
//     mask token's lies in the workspace [patches, width] and is summed over the patches by a second kernel, in which a block
//     takes 32 columns, each of its warps every eighth patch.
// Shared memory: 256 bytes for the rows of a tile's patches in the gather's gradient, 1 KB in the sum. Registers: at most 38 in
// the gathers, 48 in the scatter, 66 in its gradient; no spills on sm_80, 86, 89, 90, 100 and 120.
#include "cuda/operators/divisor.cuh"
#include "cuda/operators/launching.h"
#include "operators/patches.h"

namespace omni_id::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTilePatches = 32;  // of a line of patches: 448 pixels of CLIP's
constexpr int kUnrolled = 2;      // accesses of a lane under way in a scatter: 1 KB a warp
// Of a scatter on a multiprocessor: 80 registers a thread. Left to itself, the compiler aims at more and spills.
constexpr int kLeastBlocks = 3;
constexpr int kImages = 4;  // images whose rows are under way in a scatter's gradient

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

// The patches that are visible in each image, and where to complain of those that no image has.
struct Visible {
  const int32_t* patches;  // null: all, in their order
  int per_image;           // K
  int* complaints;
  int complaint;

  __device__ void complain() const { atomicOr(complaints, complaint); }
};

// The number k of the first of an image's rows from `begin` on that holds `patch`, or −1; by a whole warp, the same in all of
// its lanes. `others`: whether there are more.
__device__ __forceinline__ int row_of(const Visible& visible, const int32_t* of_image, int begin, int patch, bool* others) {
  const int lane = threadIdx.x % kWarp;
  int first = -1;
  *others = false;
  for (int base = begin; base < visible.per_image; base += kWarp) {
    const int k = base + lane;
    const unsigned found = __ballot_sync(kFullMask, k < visible.per_image && of_image[k] == patch);
    if (found == 0) continue;
    *others = *others || first >= 0 || (found & (found - 1)) != 0;
    if (first < 0) first = base + __ffs(static_cast<int>(found)) - 1;
  }
  return first;
}

// By one warp for each image: whether all of its indices are those of patches.
__device__ __forceinline__ void check_range(const Visible& visible, const int32_t* of_image, int patches) {
  for (int k = threadIdx.x % kWarp; k < visible.per_image; k += kWarp) {
    if (of_image[k] < 0 || of_image[k] >= patches) visible.complain();
  }
}

template <typename T, bool channels_first>
__global__ void __launch_bounds__(kThreads) gather_kernel(const float* __restrict__ images, int64_t count, Grid grid,
                                                          Visible visible, T* __restrict__ out, int64_t out_stride) {
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
__global__ void __launch_bounds__(kThreads)
    gather_gradient_kernel(const T* __restrict__ rows, int64_t stride, int64_t count, Grid grid, Visible visible, int tiles,
                           Divisor by_tiles, float* __restrict__ out) {
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
    for (int i = warp; i < kTilePatches; i += kWarps) {
      const int patch = top * grid.columns + first_column + i;
      const bool is_patch = first_column + i < grid.columns && patch < grid.patches;
      bool others = false;
      int k = visible.patches ? -1 : patch;
      if (is_patch && visible.patches) k = row_of(visible, of_image, 0, patch, &others);
      if (lane == 0) {
        row_at[i] = is_patch ? k : -1;
        repeated[i] = others;
      }
    }
    __syncthreads();
    for (int channel = blockIdx.y; channel < grid.channels; channel += gridDim.y) {
      float* to = out + (image * grid.channels + channel) * grid.height * grid.width + int64_t{top} * grid.patch * grid.width;
      for (int y = warp; y < lines; y += kWarps) {
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
__global__ void __launch_bounds__(kThreads, kLeastBlocks)
    scatter_kernel(const T* __restrict__ rows, int64_t stride, Visible visible, const float* __restrict__ mask_token,
                   const float* __restrict__ positions, int64_t positions_stride, int64_t count, int patches, int width,
                   float* __restrict__ out, int64_t out_stride) {
  const int lane = threadIdx.x % kWarp, patch = blockIdx.x * kWarps + threadIdx.x / kWarp;
  if (patch >= patches) return;
  const float* position = positions + patch * positions_stride;
  for (int64_t image = blockIdx.y; image < count; image += gridDim.y) {
    const int32_t* of_image = visible.patches + image * visible.per_image;
    if (patch == 0) check_range(visible, of_image, patches);
    bool others;
    const int k = row_of(visible, of_image, 0, patch, &others);
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
__global__ void __launch_bounds__(kThreads, kLeastBlocks)
    scatter_gradient_kernel(const float* dy, int64_t stride, Visible visible, int64_t count, int patches, int width, T* drows,
                            int64_t drows_stride, float* dpositions, int64_t dpositions_stride, float* masked) {
  const int lane = threadIdx.x % kWarp, patch = blockIdx.x * kWarps + threadIdx.x / kWarp;
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
      const int k = row_of(visible, of_image, 0, patch, &others);
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
__global__ void __launch_bounds__(kThreads) mask_token_kernel(const float* masked, int patches, int width, float* out) {
  OMNI_ID_SHARED(float, sums, kThreads);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, j = blockIdx.x * kWarp + lane;
  float sum = 0.0f;
  if (j < width) {
#pragma unroll 4
    for (int patch = warp; patch < patches; patch += kWarps) sum += masked[int64_t{patch} * width + j];
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp != 0 || j >= width) return;
  for (int other = 1; other < kWarps; ++other) sum += sums[other * kWarp + lane];
  out[j] = sum;
}

constexpr int64_t kMostAlongYZ = 65535;
unsigned along_yz(int64_t n) { return static_cast<unsigned>(std::min(n, kMostAlongYZ)); }

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

// Indices into what a kernel walks through with 32 bits.
int checked_int(int64_t n, const char* op, const char* what) {
  require(n <= INT32_MAX, op, std::to_string(n) + " " + what + ", at most 2,147,483,647 on CUDA");
  return static_cast<int>(n);
}

class PatchKernel : public CudaKernel {
 protected:
  PatchKernel(const OperatorRow& row, CudaDevice& device, int64_t visible_per_image, const char* must_hold)
      : CudaKernel(row, device),
        per_image_(checked_int(visible_per_image, row.name, "visible patches of an image")),
        complaint_(device.complaint(std::string(row.name) + ": " + must_hold)) {}

  Visible visible(const TensorView& view) const {
    return {view.as<const int32_t>(), per_image_, device().complaints(), complaint_};
  }

  int per_image_, complaint_;
};

constexpr const char* kOfTheImage = "visible must hold numbers of the image's patches";
constexpr const char* kOnce = "visible must hold numbers of the image's patches, none of them twice";

PatchGrid checked_grid(const PatchGrid& grid, const char* op) {
  checked_int(grid.channels * grid.height * grid.width, op, "elements of an image");
  return grid;
}

class PatchGatherKernel final : public PatchKernel {
 public:
  PatchGatherKernel(const Arguments& a, CudaDevice& device, const PatchGrid& grid)
      : PatchKernel(operators::patch_gather, device, a.has(1) ? a[1].shape[0] / grid.images : grid.patches(), kOfTheImage),
        output_(dtype_named(a.text("output"))),
        images_(grid.images),
        channels_first_(grid.channels_first),
        grid_(checked_grid(grid, operators::patch_gather.name)) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    const TensorView& out = call.outputs[0];
    // As many threads as make whole rounds of a row.
    const int64_t rounds = divided_up(out.type.columns(), kThreads);
    const unsigned threads = blocks_for(divided_up(out.type.columns(), rounds), kWarp) * kWarp;
    const dim3 blocks(static_cast<unsigned>(per_image_), along_yz(images_));
    with_type(output_, [&]<typename T>(T) {
      const auto go = [&](auto kernel) {
        launch<decltype(kernel)::value>(stream, blocks, threads, 0, call.inputs[0].as<const float>(), images_, grid_,
                                        visible(call.inputs[1]), out.as<T>(), out.row_stride);
      };
      if (channels_first_) {
        go(std::integral_constant<decltype(&gather_kernel<T, true>), gather_kernel<T, true>>{});
      } else {
        go(std::integral_constant<decltype(&gather_kernel<T, false>), gather_kernel<T, false>>{});
      }
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
      : PatchKernel(operators::patch_gather_gradient, device, a[0].shape[0] / grid.images, kOfTheImage),
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
      const auto go = [&](auto kernel) {
        launch<decltype(kernel)::value>(stream, blocks, kThreads, 0, rows.as<const T>(), rows.row_stride, images_, grid_,
                                        visible(call.inputs[1]), tiles, Divisor(tiles), call.outputs[0].as<float>());
      };
      if (channels_first_) {
        go(std::integral_constant<decltype(&gather_gradient_kernel<T, true>), gather_gradient_kernel<T, true>>{});
      } else {
        go(std::integral_constant<decltype(&gather_gradient_kernel<T, false>), gather_gradient_kernel<T, false>>{});
      }
    });
  }

  DType rows_;
  int64_t images_;
  bool channels_first_;
  Grid grid_;
};

class PatchScatterKernel final : public PatchKernel {
 public:
  PatchScatterKernel(const Arguments& a, CudaDevice& device)
      : PatchKernel(operators::patch_scatter, device, a[1].shape[0] / a.integer("images"), kOnce),
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
        launch<scatter_kernel<T, C::value>>(stream, dim3(blocks_for(patches_, kWarps), along_yz(images_)), kThreads, 0,
                                            rows.as<const T>(), rows.row_stride, visible(call.inputs[1]),
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
      : PatchKernel(operators::patch_scatter_gradient, device, a[1].shape[0] / a.integer("images"), kOnce),
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
            stream, dim3(blocks_for(patches_, kWarps), blocks_for(width_, kWarp * C::value)), kThreads, 0, dy.as<const float>(),
            dy.row_stride, visible(call.inputs[1]), images_, patches_, width_, drows.as<T>(), drows.row_stride,
            dpositions.as<float>(), dpositions.row_stride, masked);
      });
    });
    launch<mask_token_kernel>(stream, dim3(blocks_for(width_, kWarp)), kThreads, 0, masked, patches_, width_,
                              call.outputs[1].as<float>());
  }

  DType output_;
  int64_t images_;
  int patches_, width_;
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

std::unique_ptr<Kernel> make_patch_scatter(const Arguments& a, CudaDevice& device) {
  return std::make_unique<PatchScatterKernel>(a, device);
}

std::unique_ptr<Kernel> make_patch_scatter_gradient(const Arguments& a, CudaDevice& device) {
  return std::make_unique<PatchScatterGradientKernel>(a, device);
}

}  // namespace omni_id::cuda
