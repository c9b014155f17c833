// Operators on images that are cut into patches: patch_gather, patch_scatter and their gradients, and patch_embedding's
// gradient. Formulas and shapes: native/operators/{patch_gather,patch_scatter,patch_embedding_gradient}.cpp. Images are f32
// [images, channels, height, width] in one piece, patches rows of matrices.
//
// Strategy: a task is a patch or an image, whatever one worker can write alone; sums over images are one worker's for each row,
// in the images' order, so that no result depends on the threads. Rows go through the kernels of the instruction set; only the
// gradient by pixels, which no training step needs, goes pixel by pixel. Indices are checked before anything is read. Cost:
// every pixel or element is read once and written once, with at most 2 flops: bound by memory.
#include "operators/patches.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/float_formats.h"
#include "cpu/operators/matrix_product.h"
#include "cpu/operators/operators.h"

namespace omni_id::cpu {

namespace {

float* row_of(const TensorView& view, int64_t row) { return view.as<float>() + row * view.row_stride; }

float value_at(const TensorView& view, int64_t row, int64_t column) {
  const int64_t at = row * view.row_stride + column;
  return view.type.dtype == DType::bf16 ? float_from_bf16(view.as<const uint16_t>()[at]) : view.as<const float>()[at];
}

// out = a + b, of one row each; `out` and `a` are f32.
void add_rows(const CpuDevice& device, const float* a, const TensorView& b, int64_t row, float* out) {
  Elementwise one{};
  one.a = a;
  one.b = b.data + row * b.row_stride * static_cast<int64_t>(size_of(b.type.dtype));
  one.b_type = element(b.type.dtype);
  one.out = out;
  one.count = b.type.columns();
  device.kernels().add(&one);
}

// A row of f32 in the type of `to`.
void write_row(const CpuDevice& device, const float* from, const TensorView& to, int64_t row) {
  if (to.type.dtype == DType::bf16) {
    device.kernels().to_bf16(from, to.type.columns(), to.as<uint16_t>() + row * to.row_stride);
  } else {
    std::copy(from, from + to.type.columns(), row_of(to, row));
  }
}

// Indices arrive with every run, from outside: kernels may trust them only after this.
void check_visible(const char* op, const int32_t* visible, int64_t images, int64_t count, int64_t patches, bool distinct) {
  std::vector<bool> seen(static_cast<size_t>(patches));
  for (int64_t image = 0; image < images; ++image) {
    std::fill(seen.begin(), seen.end(), false);
    for (int64_t k = 0; k < count; ++k) {
      const int32_t patch = visible[image * count + k];
      require(patch >= 0 && patch < patches, op,
              "patch " + std::to_string(patch) + " of image " + std::to_string(image) + " is not one of " +
                  std::to_string(patches));
      require(!distinct || !seen[static_cast<size_t>(patch)], op,
              "patch " + std::to_string(patch) + " of image " + std::to_string(image) + " is visible twice");
      seen[static_cast<size_t>(patch)] = true;
    }
  }
}

// Calls body(element of the row, pixel of the image) for all of a patch, in the row's order.
template <typename Body>
void each_element(const PatchGrid& grid, int64_t patch, const Body& body) {
  const int64_t area = grid.height * grid.width;
  const int64_t first = patch / grid.columns() * grid.patch * grid.width + patch % grid.columns() * grid.patch;
  int64_t j = 0;
  if (grid.channels_first) {
    for (int64_t c = 0; c < grid.channels; ++c) {
      for (int64_t y = 0; y < grid.patch; ++y) {
        const int64_t line = c * area + first + y * grid.width;
        for (int64_t x = 0; x < grid.patch; ++x, ++j) body(j, line + x);
      }
    }
  } else {
    for (int64_t y = 0; y < grid.patch; ++y) {
      for (int64_t x = 0; x < grid.patch; ++x) {
        for (int64_t c = 0; c < grid.channels; ++c, ++j) body(j, c * area + first + y * grid.width + x);
      }
    }
  }
}

class PatchGather final : public Kernel {
 public:
  PatchGather(const Arguments& a, CpuDevice& device)
      : device_(device), grid_(patch_grid(a[0].shape, a.integer("patch"), channels_first(a, "patch_gather"), "patch_gather")) {
    rows_ = a.has(1) ? a[1].shape[0] : grid_.images * grid_.patches();
  }

  void run(const KernelCall& call) override {
    const int32_t* visible = call.inputs[1].as<const int32_t>();
    const int64_t per_image = rows_ / grid_.images;
    if (visible) check_visible("patch_gather", visible, grid_.images, per_image, grid_.patches(), false);
    const float* images = call.inputs[0].as<const float>();
    const int64_t image_elements = grid_.channels * grid_.height * grid_.width;
    const TensorView& out = call.outputs[0];
    const bool bf16 = out.type.dtype == DType::bf16;
    device_.reserve_scratch(static_cast<size_t>(grid_.depth()) * sizeof(float));
    device_.pool().parallel_for(rows_, [&](int64_t row, int worker) {
      float* to = bf16 ? static_cast<float*>(device_.scratch(worker)) : row_of(out, row);
      gather(images + row / per_image * image_elements, visible ? visible[row] : row % per_image, to);
      if (bf16) write_row(device_, to, out, row);
    });
  }

 private:
  void gather(const float* image, int64_t patch, float* to) const {
    const int64_t area = grid_.height * grid_.width, size = grid_.patch;
    const float* from = image + (patch / grid_.columns() * grid_.width + patch % grid_.columns()) * size;
    if (!grid_.channels_first) {
      for (int64_t y = 0; y < size; ++y, to += size * grid_.channels) {
        device_.kernels().interleave(from + y * grid_.width, area, grid_.channels, size, to);
      }
      return;
    }
    for (int64_t c = 0; c < grid_.channels; ++c) {
      for (int64_t y = 0; y < size; ++y, to += size) std::copy_n(from + c * area + y * grid_.width, size, to);
    }
  }

  CpuDevice& device_;
  PatchGrid grid_;
  int64_t rows_;
};

class PatchGatherGradient final : public Kernel {
 public:
  PatchGatherGradient(const Arguments& a, CpuDevice& device)
      : device_(device),
        grid_{a.integer("images"), a.integer("channels"), a.integer("height"),
              a.integer("width"),  a.integer("patch"),    channels_first(a, "patch_gather_gradient")},
        rows_(a[0].shape[0]) {}

  void run(const KernelCall& call) override {
    const int32_t* visible = call.inputs[1].as<const int32_t>();
    const int64_t per_image = rows_ / grid_.images, image_elements = grid_.channels * grid_.height * grid_.width;
    if (visible) check_visible("patch_gather_gradient", visible, grid_.images, per_image, grid_.patches(), false);
    device_.parallel_for(grid_.images, [&](int64_t i) {
      float* image = call.outputs[0].as<float>() + i * image_elements;
      std::fill(image, image + image_elements, 0.0f);
      for (int64_t row = i * per_image; row < (i + 1) * per_image; ++row) {
        each_element(grid_, visible ? visible[row] : row % per_image,
                     [&](int64_t j, int64_t pixel) { image[pixel] += value_at(call.inputs[0], row, j); });
      }
    });
  }

 private:
  CpuDevice& device_;
  PatchGrid grid_;
  int64_t rows_;
};

class PatchScatter final : public Kernel {
 public:
  PatchScatter(const Arguments& a, CpuDevice& device)
      : device_(device),
        images_(a.integer("images")),
        visible_(a[1].shape[0] / images_),
        patches_(a[3].shape[0]),
        width_(a[3].columns()) {}

  void run(const KernelCall& call) override {
    const int32_t* visible = call.inputs[1].as<const int32_t>();
    check_visible("patch_scatter", visible, images_, visible_, patches_, true);
    const float* mask_token = call.inputs[2].as<const float>();
    device_.parallel_for(images_, [&](int64_t image) {
      for (int64_t p = 0; p < patches_; ++p) {
        float* out = row_of(call.outputs[0], image * patches_ + p);
        add_rows(device_, mask_token, call.inputs[3], p, out);
      }
      for (int64_t row = image * visible_; row < (image + 1) * visible_; ++row) {
        float* out = row_of(call.outputs[0], image * patches_ + visible[row]);
        add_rows(device_, row_of(call.inputs[3], visible[row]), call.inputs[0], row, out);
      }
    });
  }

 private:
  CpuDevice& device_;
  int64_t images_, visible_, patches_, width_;
};

// Every column of a sum is one worker's, over the images in their order.
class PatchScatterGradient final : public Kernel {
 public:
  PatchScatterGradient(const Arguments& a, CpuDevice& device)
      : device_(device),
        images_(a.integer("images")),
        visible_(a[1].shape[0] / images_),
        patches_(a[0].shape[0] / images_),
        width_(a[0].columns()) {}

  size_t workspace_bytes() const override { return static_cast<size_t>(patches_ * width_) * sizeof(float); }

  void run(const KernelCall& call) override {
    const int32_t* visible = call.inputs[1].as<const int32_t>();
    check_visible("patch_scatter_gradient", visible, images_, visible_, patches_, true);
    std::vector<bool> is_visible(static_cast<size_t>(images_ * patches_));
    for (int64_t row = 0; row < images_ * visible_; ++row) {
      is_visible[static_cast<size_t>(row / visible_ * patches_ + visible[row])] = true;
    }
    float* masked = reinterpret_cast<float*>(call.workspace);  // [patches][width]: the sum where a patch was not visible
    device_.parallel_for(patches_, [&](int64_t p) {
      float *position = row_of(call.outputs[2], p), *token = masked + p * width_;
      std::fill(position, position + width_, 0.0f);
      std::fill(token, token + width_, 0.0f);
      for (int64_t image = 0; image < images_; ++image) {
        const int64_t row = image * patches_ + p;
        add_rows(device_, position, call.inputs[0], row, position);
        if (!is_visible[static_cast<size_t>(row)]) add_rows(device_, token, call.inputs[0], row, token);
      }
    });
    const ColumnSums of_mask{masked, width_, kF32, patches_, nullptr, call.outputs[1].as<float>()};
    device_.kernels().column_sums(&of_mask, 0, width_);
    device_.parallel_for(images_ * visible_, [&](int64_t row) {
      write_row(device_, row_of(call.inputs[0], row / visible_ * patches_ + visible[row]), call.outputs[0], row);
    });
  }

 private:
  CpuDevice& device_;
  int64_t images_, visible_, patches_, width_;
};

class PatchEmbeddingGradient final : public Kernel {
 public:
  PatchEmbeddingGradient(const Arguments& a, CpuDevice& device)
      : device_(device), images_(a.integer("images")), tokens_(a[0].shape[0] / images_), width_(a[0].columns()) {}

  void run(const KernelCall& call) override {
    const TensorView& dy = call.inputs[0];
    device_.parallel_for(tokens_, [&](int64_t token) {
      float* sum = row_of(call.outputs[2], token);
      std::fill(sum, sum + width_, 0.0f);
      for (int64_t image = 0; image < images_; ++image) {
        const int64_t row = image * tokens_ + token;
        add_rows(device_, sum, dy, row, sum);
        if (token > 0) write_row(device_, row_of(dy, row), call.outputs[0], image * (tokens_ - 1) + token - 1);
      }
      if (token == 0) std::copy(sum, sum + width_, call.outputs[1].as<float>());
    });
  }

 private:
  CpuDevice& device_;
  int64_t images_, tokens_, width_;
};

}  // namespace

std::unique_ptr<Kernel> make_patch_gather(const Arguments& a, CpuDevice& device) {
  return std::make_unique<PatchGather>(a, device);
}
std::unique_ptr<Kernel> make_patch_gather_gradient(const Arguments& a, CpuDevice& device) {
  return std::make_unique<PatchGatherGradient>(a, device);
}
std::unique_ptr<Kernel> make_patch_scatter(const Arguments& a, CpuDevice& device) {
  return std::make_unique<PatchScatter>(a, device);
}
std::unique_ptr<Kernel> make_patch_scatter_gradient(const Arguments& a, CpuDevice& device) {
  return std::make_unique<PatchScatterGradient>(a, device);
}
std::unique_ptr<Kernel> make_patch_embedding_gradient(const Arguments& a, CpuDevice& device) {
  return std::make_unique<PatchEmbeddingGradient>(a, device);
}

}  // namespace omni_id::cpu
