// patch_embedding: row 0 of an image = class_embedding + position_embedding[0]; row 1 + p = W · patch p +
// position_embedding[1 + p]. pixels f32[images, channels, height, width], W [outputs, channels · patch · patch].
// patch_embedding_gradient: dpatches [images · patches, outputs], dclass [outputs], dpositions [1 + patches, outputs] from dy.
//
// Strategy: one product (gemm.cuh, small tiles) with a row for each row of the result. Its left operand exists nowhere: a
// thread finds the pixels of 16 bytes of a patch's row (a class row is zeros) and carries them through registers, from which
// they go to shared memory in the product's type when the tensor cores have done the tile before. Pixels are f32 and a patch's
// lines are shorter than a vector's alignment (14 pixels), so that they are read one by one, neighbours by neighbours; the 16
// values that a thread carries cost it as many registers. Position and class embeddings are the epilogue's addend, a period of
// 1 + patches rows. Bytes: pixels once from memory and outputs / 64 times from caches, W, 4 · rows · outputs of the result and
// its positions. Flops: 2 · rows · outputs · depth.
//
// The gradient is bound by memory: a thread walks through the images with one value of one token, copies the patches' rows and
// sums them in the images' order. 4 bytes read, 4 or 2 written an element; at most 48 registers.
#include "cuda/operators/matrix_product.cuh"
#include "operators/products.h"

namespace omni_id::cuda {

namespace {

// The patches of images as rows of a product, a class row before those of each image.
template <typename T>
struct PatchOperand {
  using Element = T;
  static constexpr Contiguous contiguous = Contiguous::depth;
  template <int chunks>
  struct Staging {
    float values[chunks][kChunk<T>];
  };

  const float* pixels;
  unsigned rows, rows_per_image, columns;  // of patches: in an image
  int patch, height, width;
  int64_t image_elements;

  __device__ __forceinline__ float value(int64_t row, int64_t depth) const {
    const unsigned token = static_cast<unsigned>(row) % rows_per_image;
    return token > 0 ? *pixel(static_cast<unsigned>(row), static_cast<int>(depth)) : 0.0f;
  }

  template <int tile_rows, int threads>
  __device__ __forceinline__ void fetch(Staging<tile_rows * kDepthBytes / kChunkBytes / threads>& staged, unsigned char*,
                                        int first_row, int first, int end) const {
    using Tile = OperandTile<T, contiguous, tile_rows>;
#pragma unroll
    for (int i = 0; i < Tile::kChunks / threads; ++i) {
      const int chunk = i * threads + static_cast<int>(threadIdx.x);
      const unsigned row = static_cast<unsigned>(first_row) + static_cast<unsigned>(chunk / Tile::kChunksPerLine);
      const int depth = first + chunk % Tile::kChunksPerLine * kChunk<T>;
      const int count = row < rows && row % rows_per_image > 0 ? end - depth : 0;
      // The first value's place, then one by one.
      int y = depth / patch % patch, x = depth % patch;
      const float* at = count > 0 ? pixel(row, depth) : pixels;
#pragma unroll
      for (int j = 0; j < kChunk<T>; ++j) {
        staged.values[i][j] = j < count ? *at : 0.0f;
        ++at;
        if (++x < patch) continue;
        x = 0;
        at += width - patch;
        if (++y < patch) continue;
        y = 0;
        at += int64_t{height - patch} * width;
      }
    }
  }

  template <int tile_rows, int threads>
  __device__ __forceinline__ void put(const Staging<tile_rows * kDepthBytes / kChunkBytes / threads>& staged,
                                      unsigned char* tile) const {
    using Tile = OperandTile<T, contiguous, tile_rows>;
#pragma unroll
    for (int i = 0; i < Tile::kChunks / threads; ++i) {
      const int chunk = i * threads + static_cast<int>(threadIdx.x);
      unsigned char* const to = tile + Tile::place(chunk / Tile::kChunksPerLine, chunk % Tile::kChunksPerLine);
      const float* v = staged.values[i];
      if constexpr (sizeof(T) == 2) {
        store_vector(to,
                     make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])));
      } else {
        store_vector(to, make_float4(v[0], v[1], v[2], v[3]));
      }
    }
  }

 private:
  // Of a row that is not a class row: value `depth` of its patch, in channel, line, column order.
  __device__ __forceinline__ const float* pixel(unsigned row, int depth) const {
    const unsigned index = row % rows_per_image - 1, size = static_cast<unsigned>(patch);
    const int channel = depth / (patch * patch), y = depth / patch % patch, x = depth % patch;
    const int64_t line = int64_t{channel} * height + index / columns * size + static_cast<unsigned>(y);
    return pixels + row / rows_per_image * image_elements + line * width + index % columns * size + x;
  }
};

class PatchEmbeddingKernel final : public CudaKernel {
 public:
  PatchEmbeddingKernel(const Arguments& a, CudaDevice& device)
      : CudaKernel(operators::patch_embedding, device),
        type_(product_type(a, a[1])),
        pixels_(a[0].shape),
        patch_(a[1].shape[2]),
        rows_(pixels_[0] * rows_per_image()),
        outputs_(a[1].shape[0]),
        weight_(a[1], type_),
        product_(rows_, outputs_, a[1].elements() / outputs_, device.properties().multiprocessors) {
    require(rows_ <= INT32_MAX && a[1].elements() / outputs_ <= INT32_MAX && pixels_[2] <= INT32_MAX && pixels_[3] <= INT32_MAX,
            "patch_embedding", "pixels " + to_string(a[0]) + " hold more than 2^31 patches");
  }

  size_t workspace_bytes() const override { return weight_.workspace_bytes() + product_.workspace_bytes(); }

 private:
  int64_t rows_per_image() const { return 1 + pixels_[2] / patch_ * (pixels_[3] / patch_); }

  void enqueue(const KernelCall& call, const Stream& stream) override {
    if (rows_ == 0) return;
    const TensorView &positions = call.inputs[3], &out = call.outputs[0];
    Epilogue e;
    e.addend = positions.as<const float>();
    e.addend_stride = positions.row_stride;
    e.addend_period = static_cast<unsigned>(rows_per_image());
    e.first_row = call.inputs[2].as<const float>();
    e.out = out.data;
    e.out_stride = out.row_stride;
    e.vectors = allows(16, e.addend, e.addend_stride, 4) && allows(16, e.first_row, 0, 4) && allows(16, e.out, e.out_stride, 4);
    const ReadyOperand weight = weight_.ready(stream, call.inputs[1], call.workspace);
    with_type(type_, [&]<typename T>(T) {
      const PatchOperand<T> patches{call.inputs[0].as<const float>(),
                                    static_cast<unsigned>(rows_),
                                    static_cast<unsigned>(rows_per_image()),
                                    static_cast<unsigned>(pixels_[3] / patch_),
                                    static_cast<int>(patch_),
                                    static_cast<int>(pixels_[2]),
                                    static_cast<int>(pixels_[3]),
                                    pixels_[1] * pixels_[2] * pixels_[3]};
      product_.multiply_by<SmallTile>(stream, patches, operand<T, Contiguous::depth>(weight, outputs_), e,
                                      call.workspace + weight_.workspace_bytes());
    });
  }

  DType type_;
  Shape pixels_;
  int64_t patch_, rows_, outputs_;
  Operand weight_;
  MatrixProduct product_;
};

constexpr int kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    patch_embedding_gradient_kernel(const float* dy, int64_t dy_stride, int64_t images, int64_t tokens, int64_t columns,
                                    T* dpatches, int64_t dpatches_stride, float* dclass, float* dpositions,
                                    int64_t dpositions_stride) {
  expect_threads<kThreads>();
  const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (column >= columns) return;
  for (int64_t token = blockIdx.y; token < tokens; token += gridDim.y) {
    float sum = 0.0f;
    for (int64_t image = 0; image < images; ++image) {
      const float value = dy[(image * tokens + token) * dy_stride + column];
      sum += value;
      if (token > 0) dpatches[(image * (tokens - 1) + token - 1) * dpatches_stride + column] = from_float<T>(value);
    }
    dpositions[token * dpositions_stride + column] = sum;
    if (token == 0) dclass[column] = sum;
  }
}

class PatchEmbeddingGradientKernel final : public CudaKernel {
 public:
  PatchEmbeddingGradientKernel(const Arguments& a, CudaDevice& device)
      : CudaKernel(operators::patch_embedding_gradient, device),
        dtype_(dtype_named(a.text("output"))),
        images_(a.integer("images")),
        tokens_(a[0].shape[0] / images_),
        columns_(a[0].columns()) {}

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    const TensorView &dy = call.inputs[0], &dpatches = call.outputs[0], &dpositions = call.outputs[2];
    const dim3 grid(blocks_for(columns_, kThreads), along_yz(tokens_));
    with_type(dtype_, [&]<typename T>(T) {
      launch<patch_embedding_gradient_kernel<T>>(stream, grid, kThreads, 0, dy.as<const float>(), dy.row_stride, images_,
                                                 tokens_, columns_, dpatches.as<T>(), dpatches.row_stride,
                                                 call.outputs[1].as<float>(), dpositions.as<float>(), dpositions.row_stride);
    });
  }

  DType dtype_;
  int64_t images_, tokens_, columns_;
};

}  // namespace

std::unique_ptr<Kernel> make_patch_embedding(const Arguments& a, CudaDevice& device) {
  return std::make_unique<PatchEmbeddingKernel>(a, device);
}

std::unique_ptr<Kernel> make_patch_embedding_gradient(const Arguments& a, CudaDevice& device) {
  return std::make_unique<PatchEmbeddingGradientKernel>(a, device);
}

}  // namespace omni_id::cuda
