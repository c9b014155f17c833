#pragma once

#include <cstddef>
#include <cstdint>

#include "base/tensor.h"

namespace omni_id {

namespace cpu {
struct KernelTable;
}

// The settings of Hugging Face's CLIPImageProcessor.
struct ClipPreprocess {
  int64_t resize_shortest_edge = 224;
  int64_t crop = 224;
  double rescale = 1.0 / 255.0;
  float mean[3] = {0.48145466f, 0.4578275f, 0.40821073f};
  float standard_deviation[3] = {0.26862954f, 0.26130258f, 0.27577711f};
};

// Interleaved 8-bit RGB.
struct RgbImage {
  const uint8_t* pixels = nullptr;
  int64_t width = 0, height = 0;
};

// What memory safety needs; every backend may rely on it.
// Throws ERR_PIXELS_INVALID unless `bytes` bytes are an image of at least one pixel and at most 2^31 bytes.
void check_image(const RgbImage& image, size_t bytes);
// Throws ERR_INVALID_ARGUMENT unless both sizes are 1 to 16384 and [3, crop, crop] fits an f32 tensor from `first_element` on.
void check_preprocess(const ClipPreprocess& settings, const TensorType& to, int64_t first_element);

// CLIPImageProcessor (transformers, image_processing_clip.py) with Pillow, to the bit: the shorter edge to
// `resize_shortest_edge` (the other truncated to a whole number) by antialiased bicubic, centre crop (zeros where the image is
// smaller), rescale, normalise, with the CPU's kernels. `out` is [3, crop, crop]; image and settings are checked. On the
// calling thread alone: photos are many. Peak memory: 3 bytes × crop width × the rows that the crop needs, plus 48 bytes ×
// image width.
void clip_preprocess(const cpu::KernelTable& kernels, const RgbImage& image, const ClipPreprocess& settings, float* out);

}  // namespace omni_id
