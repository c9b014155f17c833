#pragma once

#include "graph/operators.h"

namespace omni_id {

// Images [images, channels, height, width] cut into squares of `patch` pixels, numbered row by row. Pixels beyond the last
// whole patch belong to none, as in a convolution with stride.
struct PatchGrid {
  int64_t images, channels, height, width, patch;
  bool channels_first;  // in a patch's row: [channel][y][x] as convolutions have it, or [y][x][channel] as masked autoencoders

  int64_t rows() const { return height / patch; }
  int64_t columns() const { return width / patch; }
  int64_t patches() const { return rows() * columns(); }
  int64_t depth() const { return channels * patch * patch; }
  // Where element `element` of patch `index` lies in an image.
  int64_t pixel(int64_t index, int64_t element) const {
    const int64_t area = patch * patch;
    const int64_t channel = channels_first ? element / area : element % channels;
    const int64_t within = channels_first ? element % area : element / channels;
    const int64_t y = index / columns() * patch + within / patch, x = index % columns() * patch + within % patch;
    return (channel * height + y) * width + x;
  }
};

// Throws ERR_INVALID_ARGUMENT unless `shape` is one of images that hold a patch of this size.
inline PatchGrid patch_grid(const Shape& shape, int64_t patch, bool channels_first, const char* op) {
  require(shape.size() == 4 && patch > 0 && elements_of(shape) > 0 && shape[2] >= patch && shape[3] >= patch, op,
          "images " + to_string(shape) + " hold no patch of " + std::to_string(patch) + " pixels");
  return {shape[0], shape[1], shape[2], shape[3], patch, channels_first};
}

inline bool channels_first(const Arguments& a, const char* op) {
  const std::string& order = a.text("order");
  require(order == "channels_first" || order == "channels_last", op,
          "order \"" + order + "\", expected channels_first or channels_last");
  return order == "channels_first";
}

// Test cases' indices: `count` patches, `step` apart, round and round.
inline std::vector<int32_t> spread(int64_t count, int64_t step, int64_t patches) {
  std::vector<int32_t> visible;
  for (int64_t i = 0; i < count; ++i) visible.push_back(static_cast<int32_t>(i * step % patches));
  return visible;
}

}  // namespace omni_id
