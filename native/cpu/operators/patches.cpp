// Operators on images that are cut into patches: patch_gather, patch_scatter and their gradients, patch_embedding's gradient,
// and masked_l1 with its gradient. Formulas and shapes: native/operators/{patch_gather,patch_scatter,patch_embedding_gradient,
// masked_l1}.cpp. Images are f32 [images, channels, height, width] in one piece, patches rows of matrices.
//
// Strategy: a task is a patch, an image or a row of patches, whatever one worker can write alone; sums over images are one
// worker's for each column, in the images' order, so that no result depends on the threads. Indices are checked before anything
// is read. Cost: every pixel or element is read once and written once, with at most 4 flops: bound by memory where it is
// vectorised.
#include "operators/patches.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/float_formats.h"
#include "cpu/device.h"
#include "cpu/operators/operators.h"

namespace omni_id::cpu {

namespace {

float* row_of(const TensorView& view, int64_t row) { return view.as<float>() + row * view.row_stride; }

float value_at(const TensorView& view, int64_t row, int64_t column) {
  const int64_t at = row * view.row_stride + column;
  return view.type.dtype == DType::bf16 ? float_from_bf16(view.as<const uint16_t>()[at]) : view.as<const float>()[at];
}

void set_value(const TensorView& view, int64_t row, int64_t column, float value) {
  const int64_t at = row * view.row_stride + column;
  if (view.type.dtype == DType::bf16) {
    view.as<uint16_t>()[at] = bf16_from_float(value);
  } else {
    view.as<float>()[at] = value;
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
    device_.parallel_for(rows_, [&](int64_t row) {
      const float* image = images + row / per_image * image_elements;
      const int64_t patch = visible ? visible[row] : row % per_image;
      const TensorView& out = call.outputs[0];
      if (out.type.dtype == DType::bf16) {
        uint16_t* to = out.as<uint16_t>() + row * out.row_stride;
        each_element(grid_, patch, [&](int64_t j, int64_t pixel) { to[j] = bf16_from_float(image[pixel]); });
      } else {
        float* to = row_of(out, row);
        each_element(grid_, patch, [&](int64_t j, int64_t pixel) { to[j] = image[pixel]; });
      }
    });
  }

 private:
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
        const float* position = row_of(call.inputs[3], p);
        for (int64_t j = 0; j < width_; ++j) out[j] = mask_token[j] + position[j];
      }
      for (int64_t row = image * visible_; row < (image + 1) * visible_; ++row) {
        float* out = row_of(call.outputs[0], image * patches_ + visible[row]);
        const float* position = row_of(call.inputs[3], visible[row]);
        for (int64_t j = 0; j < width_; ++j) out[j] = value_at(call.inputs[0], row, j) + position[j];
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
        const float* dy = row_of(call.inputs[0], image * patches_ + p);
        for (int64_t j = 0; j < width_; ++j) position[j] += dy[j];
        if (is_visible[static_cast<size_t>(image * patches_ + p)]) continue;
        for (int64_t j = 0; j < width_; ++j) token[j] += dy[j];
      }
    });
    float* mask_token = call.outputs[1].as<float>();
    std::fill(mask_token, mask_token + width_, 0.0f);
    for (int64_t p = 0; p < patches_; ++p) {
      for (int64_t j = 0; j < width_; ++j) mask_token[j] += masked[p * width_ + j];
    }
    device_.parallel_for(images_ * visible_, [&](int64_t row) {
      const float* dy = row_of(call.inputs[0], row / visible_ * patches_ + visible[row]);
      for (int64_t j = 0; j < width_; ++j) set_value(call.outputs[0], row, j, dy[j]);
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
        const float* from = row_of(dy, image * tokens_ + token);
        for (int64_t j = 0; j < width_; ++j) sum[j] += from[j];
        if (token == 0) continue;
        const int64_t row = image * (tokens_ - 1) + token - 1;
        for (int64_t j = 0; j < width_; ++j) set_value(call.outputs[0], row, j, from[j]);
      }
      if (token == 0) std::copy(sum, sum + width_, call.outputs[1].as<float>());
    });
  }

 private:
  CpuDevice& device_;
  int64_t images_, tokens_, width_;
};

// A task is one row of patches of one image.
class MaskedL1Base : public Kernel {
 protected:
  MaskedL1Base(const Arguments& a, CpuDevice& device)
      : device_(device), grid_(patch_grid(a[1].shape, a.integer("patch"), false, "masked_l1")) {}

  int64_t tasks() const { return grid_.images * (grid_.height / grid_.patch); }

  // Calls body(row of patches, prediction of one of them, target, mask, stride): of the first channel of the first pixel of a
  // line of the patch, for all lines of all patches of a task.
  template <typename Body>
  void each_line(const KernelCall& call, int64_t task, const Body& body) const {
    const int64_t rows = grid_.height / grid_.patch, image = task / rows, area = grid_.height * grid_.width;
    const float *target = call.inputs[1].as<const float>() + image * grid_.channels * area,
                *mask = call.inputs[2].as<const float>() + image * area;
    for (int64_t column = 0; column < grid_.columns(); ++column) {
      const int64_t row = image * grid_.patches() + task % rows * grid_.columns() + column;
      for (int64_t y = 0; y < grid_.patch; ++y) {
        const int64_t line = (task % rows * grid_.patch + y) * grid_.width + column * grid_.patch;
        body(row, y * grid_.patch * grid_.channels, target + line, mask + line, area);
      }
    }
  }

  CpuDevice& device_;
  PatchGrid grid_;
};

class MaskedL1 final : public MaskedL1Base {
 public:
  MaskedL1(const Arguments& a, CpuDevice& device) : MaskedL1Base(a, device) {}

  size_t workspace_bytes() const override { return static_cast<size_t>(tasks()) * sizeof(double); }

  void run(const KernelCall& call) override {
    double* sums = reinterpret_cast<double*>(call.workspace);
    device_.parallel_for(tasks(), [&](int64_t task) {
      double sum = 0.0;
      each_line(call, task, [&](int64_t row, int64_t first, const float* target, const float* mask, int64_t area) {
        const float* prediction = row_of(call.inputs[0], row) + first;
        float of_line = 0.0f;
        for (int64_t x = 0; x < grid_.patch; ++x) {
          for (int64_t c = 0; c < grid_.channels; ++c, ++prediction) {
            of_line += std::abs(*prediction - target[c * area + x]) * mask[x];
          }
        }
        sum += static_cast<double>(of_line);
      });
      sums[task] = sum;
    });
    double total = 0.0;
    for (int64_t task = 0; task < tasks(); ++task) total += sums[task];
    *call.outputs[0].as<float>() = static_cast<float>(total / *call.inputs[3].as<const float>());
  }
};

class MaskedL1Gradient final : public MaskedL1Base {
 public:
  MaskedL1Gradient(const Arguments& a, CpuDevice& device) : MaskedL1Base(a, device) {}

  void run(const KernelCall& call) override {
    const float scale = *call.inputs[4].as<const float>() / *call.inputs[3].as<const float>();
    device_.parallel_for(tasks(), [&](int64_t task) {
      each_line(call, task, [&](int64_t row, int64_t first, const float* target, const float* mask, int64_t area) {
        const float* prediction = row_of(call.inputs[0], row) + first;
        float* out = row_of(call.outputs[0], row) + first;
        for (int64_t x = 0; x < grid_.patch; ++x) {
          const float weight = mask[x] * scale;
          for (int64_t c = 0; c < grid_.channels; ++c, ++prediction, ++out) {
            const float difference = *prediction - target[c * area + x];
            // Without a branch, which could not be predicted. What is not finite stays so: then its difference from itself is
            // NaN.
            const float sign = static_cast<float>((difference > 0.0f) - (difference < 0.0f)) + (difference - difference);
            *out = sign * weight;
          }
        }
      });
    });
  }
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
std::unique_ptr<Kernel> make_masked_l1(const Arguments& a, CpuDevice& device) { return std::make_unique<MaskedL1>(a, device); }
std::unique_ptr<Kernel> make_masked_l1_gradient(const Arguments& a, CpuDevice& device) {
  return std::make_unique<MaskedL1Gradient>(a, device);
}

}  // namespace omni_id::cpu
