// The scatter of visible patches among mask tokens, as a masked decoder begins, and its gradient:
//   patch_scatter: y [images · patches, width]; row p of image i is positions[p] + (rows[i · K + k] where visible[i · K + k] =
//   p,
//     mask_token where p is not visible)
//   patch_scatter_gradient: drows [images · K, width], dmask_token [width], dpositions [patches, width]
// rows [images · K, width], visible i32[images · K], no patch of an image twice; mask_token [width], positions [patches,
// width].
#include <cmath>

#include "cpu/operators/operators.h"
#include "graph/operators.h"
#include "graph/rounding.h"
#include "operators/patches.h"

namespace omni_id::operators {

namespace {

constexpr const char* kName = "patch_scatter";
constexpr const char* kGradient = "patch_scatter_gradient";

void require_visible(const TensorType& visible, int64_t images, const char* op) {
  require(images > 0 && visible.shape.size() == 1 && visible.shape[0] % images == 0, op,
          "visible is " + to_string(visible) + ", expected as many for each of " + std::to_string(images) + " images");
}

std::vector<TensorType> shapes(const Arguments& a) {
  const TensorType &rows = a[0], &mask = a[2], &positions = a[3];
  const int64_t images = a.integer("images");
  require_visible(a[1], images, kName);
  require(
      positions.shape.size() == 2 && positions.dtype == DType::f32 && mask == TensorType{DType::f32, {positions.columns()}} &&
          rows.shape == Shape{a[1].shape[0], positions.columns()},
      kName,
      "rows " + to_string(rows) + ", mask_token " + to_string(mask) + " and positions " + to_string(positions) + " do not fit");
  return {{DType::f32, {images * positions.shape[0], positions.columns()}}};
}

// visible[image][k] = patch, turned round: for every patch of an image its k, or −1.
std::vector<int64_t> slots(const ReferenceTensor& visible, int64_t images, int64_t patches) {
  std::vector<int64_t> slot(static_cast<size_t>(images * patches), -1);
  const int64_t count = static_cast<int64_t>(visible.values.size()) / images;
  for (int64_t i = 0; i < images * count; ++i) slot[i / count * patches + static_cast<int64_t>(visible.values[i])] = i;
  return slot;
}

void reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const int64_t images = a.integer("images"), patches = a[3].shape[0], width = a[3].columns();
  const std::vector<int64_t> slot = slots(in[1], images, patches);
  for (int64_t row = 0; row < images * patches; ++row) {
    for (int64_t j = 0; j < width; ++j) {
      const double token = slot[row] < 0 ? in[2].values[j] : in[0].values[slot[row] * width + j];
      const double value = token + in[3].values[row % patches * width + j];
      out[0].values[row * width + j] = value;
      out[0].errors[row * width + j] = kRoundingF32 * std::abs(value);
    }
  }
}

std::vector<TensorType> gradient_shapes(const Arguments& a) {
  const TensorType& dy = a[0];
  const int64_t images = a.integer("images");
  require_visible(a[1], images, kGradient);
  require(dy.shape.size() == 2 && dy.dtype == DType::f32 && dy.shape[0] > 0 && dy.shape[0] % images == 0, kGradient,
          "dy is " + to_string(dy) + ", expected f32 rows of " + std::to_string(images) + " images");
  const DType dtype = dtype_named(a.text("output"));
  require(dtype == DType::f32 || dtype == DType::bf16, kGradient, "output must be f32 or bf16");
  return {
      {dtype, {a[1].shape[0], dy.columns()}}, {DType::f32, {dy.columns()}}, {DType::f32, {dy.shape[0] / images, dy.columns()}}};
}

void gradient_reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const int64_t images = a.integer("images"), rows = a[0].shape[0], patches = rows / images, width = a[0].columns();
  const std::vector<int64_t> slot = slots(in[1], images, patches);
  std::vector<double> of_mask(static_cast<size_t>(width)), of_positions(static_cast<size_t>(patches * width));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t j = 0; j < width; ++j) {
      const double dy = in[0].values[row * width + j];
      if (slot[row] < 0) {
        out[1].values[j] += dy;
        of_mask[j] += std::abs(dy);
      } else {
        out[0].values[slot[row] * width + j] = dy;
      }
      out[2].values[row % patches * width + j] += dy;
      of_positions[row % patches * width + j] += std::abs(dy);
    }
  }
  for (int64_t j = 0; j < width; ++j) out[1].errors[j] = kRoundingF32 * roundings_of_terms(rows) * of_mask[j];
  for (int64_t j = 0; j < patches * width; ++j) {
    out[2].errors[j] = kRoundingF32 * roundings_of_terms(images) * of_positions[j];
  }
}

}  // namespace

const OperatorRow patch_scatter = {
    .name = kName,
    .inputs = {{"rows", InputRole::plain},
               {"visible", InputRole::index},
               {"mask_token", InputRole::plain},
               {"positions", InputRole::plain}},
    .attributes = {{"images", int64_t{1}}},
    .shapes = shapes,
    .cpu = cpu::make_patch_scatter,
    .reference = reference,
    .flops = [](const Arguments& a) { return static_cast<double>(a.integer("images") * a[3].elements()); },
    .sum_length = [](const Arguments&) { return int64_t{2}; },
    .cases =
        {
            {{{1, 1}, {1}, {1}, {1, 1}}, {}, {{1, {0}}}},
            {{{4, 33}, {4}, {33}, {9, 33}}, {{"images", int64_t{2}}}, {{1, {8, 0, 3, 5}}}},
            {{{0, 7}, {0}, {7}, {5, 7}}, {{"images", int64_t{3}}}, {{1, {}}}},
            {{{40, 260}, {40}, {260}, {51, 260}}, {}, {{1, spread(40, 7, 51)}}},
        },
};

const OperatorRow patch_scatter_gradient = {
    .name = kGradient,
    .inputs = {{"dy", InputRole::plain}, {"visible", InputRole::index}},
    .attributes = {{"images", int64_t{1}}, {"output", std::string("f32")}},
    .shapes = gradient_shapes,
    .cpu = cpu::make_patch_scatter_gradient,
    .reference = gradient_reference,
    .flops = [](const Arguments& a) { return 2.0 * static_cast<double>(a[0].elements()); },
    .sum_length = [](const Arguments& a) { return a[0].shape[0]; },
    .cases =
        {
            {{{1, 1}, {1}}, {}, {{1, {0}}}},
            {{{18, 33}, {4}}, {{"images", int64_t{2}}}, {{1, {8, 0, 3, 5}}}},
            {{{18, 40}, {4}}, {{"images", int64_t{2}}, {"output", std::string("bf16")}}, {{1, {8, 0, 3, 5}}}},
            {{{15, 7}, {0}}, {{"images", int64_t{3}}}, {{1, {}}}},
            {{{90, 132}, {35}}, {{"images", int64_t{5}}}, {{1, spread(35, 5, 18)}}},
            {{{51, 4}, {40}}, {}, {{1, spread(40, 7, 51)}}},
            {{{117, 36}, {39}}, {{"images", int64_t{39}}}, {{1, std::vector<int32_t>(39, 1)}}},
        },
};

}  // namespace omni_id::operators
