#include <cstring>

#include "base/float_formats.h"
#include "cpu/operators/matrix_product.h"
#include "cpu/operators/operators.h"

namespace omni_id::cpu {

namespace {

// Strategy: patches are gathered into rows [images · patches, channels · patch²] in the type of the weights, then one product
// writes behind each image's class token, with the position embeddings as a residual that repeats for every image.
class PatchEmbedding final : public Kernel {
 public:
  PatchEmbedding(const Arguments& a, CpuDevice& device)
      : device_(device),
        weight_(a, 1, true),
        images_(a[0].shape[0]),
        channels_(a[0].shape[1]),
        height_(a[0].shape[2]),
        width_(a[0].shape[3]),
        patch_(a[1].shape[2]),
        outputs_(a[1].shape[0]),
        bf16_(weight_.type() == kBf16) {}

  size_t workspace_bytes() const override { return rows_bytes() + weight_.workspace_bytes(); }

  void run(const KernelCall& call) override {
    device_.parallel_for(images_ * rows_of_patches(),
                         [&](int64_t task) { bf16_ ? gather<uint16_t>(call, task) : gather<float>(call, task); });
    const float* class_embedding = call.inputs[2].as<const float>();
    const TensorView& positions = call.inputs[3];
    float* out = call.outputs[0].as<float>();
    const int64_t stride = call.outputs[0].row_stride;
    for (int64_t image = 0; image < images_; ++image) {
      float* row = out + image * (1 + patches()) * stride;
      for (int64_t j = 0; j < outputs_; ++j) row[j] = class_embedding[j] + positions.as<const float>()[j];
    }
    Gemm gemm{};
    gemm.m = images_ * patches();
    gemm.n = outputs_;
    gemm.k = depth();
    gemm.a = call.workspace;
    gemm.a_stride = depth();
    gemm.a_type = gemm.weight_type = bf16_ ? kBf16 : kF32;
    gemm.weight = weight_.ready(device_, call.inputs[1], call.workspace + rows_bytes());
    gemm.activation = kNoActivation;
    gemm.residual = positions.as<const float>();
    gemm.residual_stride = positions.row_stride;
    gemm.residual_period = 1 + patches();
    gemm.out = out;
    gemm.out_stride = stride;
    gemm.out_type = kF32;
    gemm.out_group = patches();
    gemm.out_skip = 1;
    matrix_product(device_, gemm);
  }

 private:
  size_t rows_bytes() const { return aligned_bytes(static_cast<size_t>(images_ * patches() * depth()) * (bf16_ ? 2 : 4)); }
  int64_t rows_of_patches() const { return height_ / patch_; }
  int64_t patches() const { return rows_of_patches() * (width_ / patch_); }
  int64_t depth() const { return channels_ * patch_ * patch_; }

  static void copy(const float* from, int64_t n, float* to) { std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float)); }
  static void copy(const float* from, int64_t n, uint16_t* to) {
    for (int64_t i = 0; i < n; ++i) to[i] = bf16_from_float(from[i]);
  }

  // One row of patches of one image.
  template <typename T>
  void gather(const KernelCall& call, int64_t task) const {
    const int64_t image = task / rows_of_patches(), patch_row = task % rows_of_patches(), columns = width_ / patch_;
    const float* pixels = call.inputs[0].as<const float>() + image * channels_ * height_ * width_;
    T* to = reinterpret_cast<T*>(call.workspace) + (image * patches() + patch_row * columns) * depth();
    for (int64_t column = 0; column < columns; ++column) {
      for (int64_t c = 0; c < channels_; ++c) {
        for (int64_t y = 0; y < patch_; ++y, to += patch_) {
          copy(pixels + (c * height_ + patch_row * patch_ + y) * width_ + column * patch_, patch_, to);
        }
      }
    }
  }

  CpuDevice& device_;
  Multiplier weight_;
  int64_t images_, channels_, height_, width_, patch_, outputs_;
  bool bf16_;
};

}  // namespace

std::unique_ptr<Kernel> make_patch_embedding(const Arguments& a, CpuDevice& device) {
  return std::make_unique<PatchEmbedding>(a, device);
}

}  // namespace omni_id::cpu
