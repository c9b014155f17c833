#include "image/clip_preprocess.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "cpu/kernels/kernels.h"

namespace omni_id {

namespace {

// Pillow's weights for one direction, for outputs [begin, begin + count) of `outputs`.
struct Weights {
  std::vector<int32_t> first, taps, weights;
  int64_t most_taps = 0;
};

// Keys' cubic with a = −½, as in Pillow.
double bicubic(double x) {
  x = std::abs(x);
  if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1.0;
  if (x < 2.0) return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0;
  return 0.0;
}

// Every rounding is Pillow's (precompute_coeffs, normalize_coeffs_8bpc): centres and weights in double, ends truncated towards
// zero after adding one half, weights normalised and rounded half away from zero to 22 fractional bits.
Weights weights_for(int64_t inputs, int64_t outputs, int64_t begin, int64_t count) {
  const double scale = static_cast<double>(inputs) / static_cast<double>(outputs);
  const double filter_scale = std::max(scale, 1.0);
  const double support = 2.0 * filter_scale;
  Weights w;
  w.most_taps = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  w.weights.resize(static_cast<size_t>(count * w.most_taps));
  std::vector<double> exact(static_cast<size_t>(w.most_taps));
  for (int64_t i = 0; i < count; ++i) {
    const double center = (static_cast<double>(begin + i) + 0.5) * scale;
    const double inverse = 1.0 / filter_scale;
    const int64_t first = std::max<int64_t>(0, static_cast<int64_t>(center - support + 0.5));
    const int64_t taps = std::min(inputs, static_cast<int64_t>(center + support + 0.5)) - first;
    double total = 0.0;
    for (int64_t t = 0; t < taps; ++t) {
      exact[static_cast<size_t>(t)] = bicubic((static_cast<double>(t + first) - center + 0.5) * inverse);
      total += exact[static_cast<size_t>(t)];
    }
    for (int64_t t = 0; t < taps; ++t) {
      double weight = exact[static_cast<size_t>(t)];
      if (total != 0.0) weight /= total;
      weight *= 1 << 22;
      w.weights[static_cast<size_t>(i * w.most_taps + t)] = static_cast<int32_t>(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    w.first.push_back(static_cast<int32_t>(first));
    w.taps.push_back(static_cast<int32_t>(taps));
  }
  return w;
}

// The part of one direction that the crop shows: outputs [begin, begin + count) of `size`, placed at `at` of the crop.
struct Window {
  int64_t size, begin, count, at;
};

int64_t floor_half(int64_t x) { return x >= 0 ? x / 2 : -((1 - x) / 2); }

Window window_of(int64_t size, int64_t crop) {
  const int64_t begin = floor_half(size - crop);
  return {size, std::max<int64_t>(0, begin), std::min(size, begin + crop) - std::max<int64_t>(0, begin),
          std::max<int64_t>(0, -begin)};
}

}  // namespace

void check_image(const RgbImage& image, size_t bytes) {
  if (image.width < 1 || image.height < 1 || image.width > (int64_t{1} << 31) / image.height / 3 ||
      bytes != static_cast<size_t>(image.width * image.height * 3)) {
    throw EngineError(kPixelsInvalid, "preprocess: " + std::to_string(bytes) + " bytes do not make " +
                                          std::to_string(image.width) + " × " + std::to_string(image.height) + " × 3");
  }
}

void check_preprocess(const ClipPreprocess& settings, const TensorType& to, int64_t first_element) {
  constexpr int64_t kMost = 16384;
  const int64_t crop = settings.crop, edge = settings.resize_shortest_edge;
  if (crop < 1 || crop > kMost || edge < 1 || edge > kMost) {
    throw EngineError(kInvalidArgument, "preprocess: resizing to " + std::to_string(edge) + " and a crop of " +
                                            std::to_string(crop) + ", expected 1 to " + std::to_string(kMost));
  }
  const int64_t values = 3 * crop * crop, total = to.elements();
  if (to.dtype != DType::f32 || first_element < 0 || values > total || first_element > total - values) {
    throw EngineError(kInvalidArgument, "preprocess: a crop of " + std::to_string(crop) + " at element " +
                                            std::to_string(first_element) + " of " + to_string(to));
  }
}

void clip_preprocess(const cpu::KernelTable& kernels, const RgbImage& image, const ClipPreprocess& settings, float* out) {
  const int64_t width = image.width, height = image.height, edge = settings.resize_shortest_edge, crop = settings.crop;
  int64_t new_width = width, new_height = height;
  const int64_t shorter = std::min(width, height), longer = std::max(width, height);
  if (shorter != edge) {
    const int64_t new_longer = static_cast<int64_t>(static_cast<double>(edge * longer) / static_cast<double>(shorter));
    new_width = width <= height ? edge : new_longer;
    new_height = width <= height ? new_longer : edge;
  }
  const Window across = window_of(new_width, crop), down = window_of(new_height, crop);

  // Source rows that the crop's rows read.
  Weights vertical;
  int64_t first_row = down.begin, rows = down.count;
  if (new_height != height) {
    vertical = weights_for(height, new_height, down.begin, down.count);
    first_row = vertical.first.front();
    rows = vertical.first.back() + vertical.taps.back() - first_row;
    for (int32_t& first : vertical.first) first -= static_cast<int32_t>(first_row);
  }

  // Along the rows, then down the columns, each rounded to bytes; a direction whose size stays is left alone.
  const uint8_t* pixels = image.pixels + (first_row * width + across.begin) * 3;
  int64_t stride = width * 3;
  std::vector<uint8_t> narrow, small;
  if (new_width != width) {
    const Weights horizontal = weights_for(width, new_width, across.begin, across.count);
    narrow.resize(static_cast<size_t>(rows * across.count * 3));
    const cpu::Resample pass{image.pixels + first_row * width * 3,
                             stride,
                             width,
                             across.count,
                             horizontal.first.data(),
                             horizontal.taps.data(),
                             horizontal.weights.data(),
                             horizontal.most_taps,
                             narrow.data(),
                             across.count * 3};
    std::vector<std::byte> scratch(kernels.resample_scratch_bytes(&pass));
    kernels.resample_rows(&pass, 0, rows, scratch.data());
    pixels = narrow.data();
    stride = across.count * 3;
  }
  if (new_height != height) {
    small.resize(static_cast<size_t>(down.count * across.count * 3));
    const cpu::Resample pass{pixels,
                             stride,
                             across.count,
                             down.count,
                             vertical.first.data(),
                             vertical.taps.data(),
                             vertical.weights.data(),
                             vertical.most_taps,
                             small.data(),
                             across.count * 3};
    kernels.resample_columns(&pass, 0, down.count);
    pixels = small.data();
    stride = across.count * 3;
  }

  // A byte has 256 values: normalising is a table, made with numpy's roundings (rescale in double to f32, then f32 throughout).
  for (int64_t channel = 0; channel < 3; ++channel) {
    float table[256];
    for (int value = 0; value < 256; ++value) {
      const float rescaled = static_cast<float>(value * settings.rescale);
      table[value] = (rescaled - settings.mean[channel]) / settings.standard_deviation[channel];
    }
    float* plane = out + channel * crop * crop;
    if (across.count < crop || down.count < crop) std::fill(plane, plane + crop * crop, table[0]);
    for (int64_t y = 0; y < down.count; ++y) {
      const uint8_t* row = pixels + y * stride + channel;
      float* to = plane + (down.at + y) * crop + across.at;
      for (int64_t x = 0; x < across.count; ++x) to[x] = table[row[3 * x]];
    }
  }
}

}  // namespace omni_id
