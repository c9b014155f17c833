// patch_embedding_gradient: of a patch embedding's result, y [images · (1 + patches), width], to what it is made of:
//   dpatches [images · patches, width] (the rows without the class tokens, of which the weight's gradient is a product),
//   dclass [width] and dpositions [1 + patches, width], summed over the images.
#include <cmath>

#include "cpu/operators/operators.h"
#include "graph/operators.h"
#include "graph/rounding.h"

namespace omni_id::operators {

namespace {

constexpr const char* kName = "patch_embedding_gradient";

std::vector<TensorType> shapes(const Arguments& a) {
  const TensorType& dy = a[0];
  const int64_t images = a.integer("images");
  require(dy.dtype == DType::f32 && dy.shape.size() == 2 && images > 0 && dy.shape[0] > 0 && dy.shape[0] % images == 0, kName,
          "dy is " + to_string(dy) + ", expected f32 rows of " + std::to_string(images) + " images");
  const DType dtype = dtype_named(a.text("output"));
  require(dtype == DType::f32 || dtype == DType::bf16, kName, "output must be f32 or bf16");
  return {{dtype, {dy.shape[0] - images, dy.columns()}},
          {DType::f32, {dy.columns()}},
          {DType::f32, {dy.shape[0] / images, dy.columns()}}};
}

void reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const int64_t images = a.integer("images"), tokens = a[0].shape[0] / images, width = a[0].columns();
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t token = 0; token < tokens; ++token) {
      for (int64_t j = 0; j < width; ++j) {
        const double dy = in[0].values[(image * tokens + token) * width + j];
        out[2].values[token * width + j] += dy;
        out[2].errors[token * width + j] += kRoundingF32 * roundings_of_terms(images) * std::abs(dy);
        if (token == 0) {
          out[1].values[j] += dy;
          out[1].errors[j] = out[2].errors[j];
        } else {
          out[0].values[(image * (tokens - 1) + token - 1) * width + j] = dy;
        }
      }
    }
  }
}

}  // namespace

const OperatorRow patch_embedding_gradient = {
    .name = kName,
    .inputs = {{"dy", InputRole::plain}},
    .attributes = {{"images", int64_t{1}}, {"output", std::string("f32")}},
    .shapes = shapes,
    .cpu = cpu::make_patch_embedding_gradient,
    .reference = reference,
    .flops = [](const Arguments& a) { return static_cast<double>(a[0].elements()); },
    .sum_length = [](const Arguments& a) { return a.integer("images"); },
    .cases = {{{{2, 1}}, {}, {}},
              {{{15, 33}}, {{"images", int64_t{3}}}, {}},
              {{{15, 40}}, {{"images", int64_t{3}}, {"output", std::string("bf16")}}, {}}},
};

}  // namespace omni_id::operators
