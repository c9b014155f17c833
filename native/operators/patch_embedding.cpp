// patch_embedding: CLIP's first layer. Every image becomes 1 + patches rows:
//   row 0 = class_embedding + position_embedding[0]
//   row 1 + p = W · patch p + position_embedding[1 + p]
// pixels f32[images, 3, height, width]; W [width of the model, 3, patch, patch] without bias; patches in row-major order,
// values of a patch in channel, row, column order. Pixels beyond the last whole patch are not used, as in a convolution with
// stride.
#include "cpu/operators/operators.h"
#include "graph/operators.h"
#include "operators/products.h"

namespace omni_id::operators {

namespace {

constexpr const char* kName = "patch_embedding";

std::vector<TensorType> shapes(const Arguments& a) {
  const TensorType &pixels = a[0], &weight = a[1];
  require(pixels.dtype == DType::f32 && pixels.shape.size() == 4 && weight.shape.size() == 4 &&
              weight.shape[1] == pixels.shape[1] && weight.shape[2] == weight.shape[3] && weight.shape[0] > 0 &&
              weight.shape[1] > 0 && weight.shape[2] > 0,
          kName,
          "pixels are " + to_string(pixels) + " and weight " + to_string(weight) +
              ", expected f32[images, channels, height, width] and [outputs, channels, patch, patch]");
  const int64_t patch = weight.shape[2];
  const int64_t patches = (pixels.shape[2] / patch) * (pixels.shape[3] / patch);
  require(patches > 0, kName, "pixels " + to_string(pixels) + " hold no patch of " + std::to_string(patch));
  require(a[2] == TensorType{DType::f32, {weight.shape[0]}}, kName, "class_embedding is " + to_string(a[2]));
  require(a[3] == TensorType{DType::f32, {1 + patches, weight.shape[0]}}, kName,
          "position_embedding is " + to_string(a[3]) + ", expected f32" + to_string(Shape{1 + patches, weight.shape[0]}));
  require_compute(a, kName);
  return {{DType::f32, {pixels.shape[0] * (1 + patches), weight.shape[0]}}};
}

int64_t sum_length(const Arguments& a) { return a[1].elements() / a[1].shape[0]; }

// For a bf16 weight the pixels are those rounded to bf16, which is what is multiplied.
void reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const int64_t images = a[0].shape[0], channels = a[0].shape[1], height = a[0].shape[2], width = a[0].shape[3];
  const int64_t n = a[1].shape[0], patch = a[1].shape[2];
  const int64_t columns = width / patch, patches = (height / patch) * columns;
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t token = 0; token <= patches; ++token) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = in[3].values[token * n + j];
        if (token == 0) sum += in[2].values[j];
        ProductSum product(sum_length(a), product_type(a, a[1]), a[1].dtype, a[1].dtype);
        for (int64_t i = 0; token > 0 && i < channels * patch * patch; ++i) {
          const int64_t c = i / (patch * patch), y = i / patch % patch + (token - 1) / columns * patch;
          const int64_t x = i % patch + (token - 1) % columns * patch;
          product.add(in[0].values[((image * channels + c) * height + y) * width + x],
                      in[1].values[j * channels * patch * patch + i]);
        }
        sum += product.value();
        const int64_t at = (image * (1 + patches) + token) * n + j;
        out[0].values[at] = sum;
        out[0].errors[at] = product.error() + kRoundingF32 * std::abs(sum);
      }
    }
  }
}

}  // namespace

const OperatorRow patch_embedding = {
    .name = kName,
    .inputs = {{"pixels", InputRole::plain},
               {"weight", InputRole::matrix},
               {"class_embedding", InputRole::plain},
               {"position_embedding", InputRole::plain}},
    .attributes = {{"compute", std::string()}},
    .shapes = shapes,
    .cpu = cpu::make_patch_embedding,
    .reference = reference,
    .flops =
        [](const Arguments& a) {
          const int64_t patch = a[1].shape[2];
          const int64_t patches = (a[0].shape[2] / patch) * (a[0].shape[3] / patch);
          return 2.0 * static_cast<double>(a[0].shape[0] * patches) * static_cast<double>(a[1].elements());
        },
    .sum_length = sum_length,
    .cases =
        {
            {{{1, 3, 4, 4}, {8, 3, 4, 4}, {8}, {2, 8}}, {}, {}},
            {{{3, 3, 28, 28}, {48, 3, 7, 7}, {48}, {17, 48}}, {}, {}},
            {{{2, 3, 30, 45}, {33, 3, 14, 14}, {33}, {7, 33}}, {}, {}},
            {{{2, 3, 28, 28}, {40, 3, 7, 7}, {40}, {17, 40}}, {{"compute", std::string("bf16")}}, {}},
            {{{0, 3, 8, 8}, {16, 3, 4, 4}, {16}, {5, 16}}, {}, {}},
        },
};

}  // namespace omni_id::operators
