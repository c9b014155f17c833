#pragma once

#include <cstdint>

#include "cpu/kernels/kernels.h"

namespace omni_id {

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

// CLIPImageProcessor (transformers, image_processing_clip.py) with Pillow, to the bit: the shorter edge to
// `resize_shortest_edge` (the other truncated to a whole number) by antialiased bicubic, centre crop (zeros where the image is
// smaller), rescale, normalise. `out` is [3, crop, crop]. On the calling thread alone: photos are many. Peak memory: 3 bytes ×
// crop width × the rows that the crop needs, plus 48 bytes × image width. Throws ERR_PIXELS_INVALID for an image without pixels
// or larger than 2^31 bytes.
void clip_preprocess(const cpu::KernelTable& kernels, const RgbImage& image, const ClipPreprocess& settings, float* out);

}  // namespace omni_id
