// The masked patch gather and its gradient:
//   patch_gather: images [images, channels, height, width] → rows [images · K, channels · patch²], row i · K + k being patch
//     visible[i · K + k] of image i; without `visible` every patch, in order. Only what is visible is ever read.
//   patch_gather_gradient: the rows' gradient back in its place in the images; zeros elsewhere.
// `order` of a row is channels_last, [y][x][channel] (as in MAE), or channels_first, [channel][y][x] (a convolution's weight).
#include "cpu/operators/operators.h"
#include "graph/rounding.h"
#include "operators/patches.h"

namespace omni_id::operators {

namespace {

constexpr const char* kName = "patch_gather";
constexpr const char* kGradient = "patch_gather_gradient";

int64_t rows_of(const Arguments& a, const PatchGrid& grid, const char* op) {
  if (!a.has(1)) return grid.images * grid.patches();
  require(a[1].shape.size() == 1 && a[1].shape[0] % grid.images == 0, op,
          "visible is " + to_string(a[1]) + ", expected as many for each of " + std::to_string(grid.images) + " images");
  return a[1].shape[0];
}

std::vector<TensorType> shapes(const Arguments& a) {
  require(a[0].dtype == DType::f32, kName, "images are " + to_string(a[0]) + ", expected f32");
  const PatchGrid grid = patch_grid(a[0].shape, a.integer("patch"), channels_first(a, kName), kName);
  const DType dtype = dtype_named(a.text("output"));
  require(dtype == DType::f32 || dtype == DType::bf16, kName, "output must be f32 or bf16");
  return {{dtype, {rows_of(a, grid, kName), grid.depth()}}};
}

int64_t patch_of(const Arguments& a, const PatchGrid& grid, const std::vector<ReferenceTensor>& in, int64_t row) {
  return a.has(1) ? static_cast<int64_t>(in[1].values[row]) : row % grid.patches();
}

// Copies: no error but the rounding of the result.
void reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const PatchGrid grid = patch_grid(a[0].shape, a.integer("patch"), channels_first(a, kName), kName);
  const int64_t rows = rows_of(a, grid, kName), image_elements = grid.channels * grid.height * grid.width;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t image = row / (rows / grid.images), patch = patch_of(a, grid, in, row);
    for (int64_t j = 0; j < grid.depth(); ++j) {
      out[0].values[row * grid.depth() + j] = in[0].values[image * image_elements + grid.pixel(patch, j)];
    }
  }
}

PatchGrid gradient_grid(const Arguments& a) {
  const Shape images{a.integer("images"), a.integer("channels"), a.integer("height"), a.integer("width")};
  return patch_grid(images, a.integer("patch"), channels_first(a, kGradient), kGradient);
}

std::vector<TensorType> gradient_shapes(const Arguments& a) {
  const PatchGrid grid = gradient_grid(a);
  require(a[0].shape == Shape{rows_of(a, grid, kGradient), grid.depth()}, kGradient,
          "rows are " + to_string(a[0]) + ", expected [" + std::to_string(rows_of(a, grid, kGradient)) + ", " +
              std::to_string(grid.depth()) + "]");
  return {{DType::f32, {grid.images, grid.channels, grid.height, grid.width}}};
}

// A copy where a patch is visible once, and a sum where it is more often.
void gradient_reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  const PatchGrid grid = gradient_grid(a);
  const int64_t rows = a[0].shape[0], image_elements = grid.channels * grid.height * grid.width;
  std::vector<double> magnitudes(out[0].values.size());
  std::vector<int64_t> terms(out[0].values.size());
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t image = row / (rows / grid.images), patch = patch_of(a, grid, in, row);
    for (int64_t j = 0; j < grid.depth(); ++j) {
      const int64_t at = image * image_elements + grid.pixel(patch, j);
      out[0].values[at] += in[0].values[row * grid.depth() + j];
      magnitudes[at] += std::abs(in[0].values[row * grid.depth() + j]);
      ++terms[at];
    }
  }
  for (size_t i = 0; i < terms.size(); ++i) out[0].errors[i] = kRoundingF32 * roundings_of_terms(terms[i]) * magnitudes[i];
}

double flops(const Arguments&) { return 0.0; }
int64_t sum_length(const Arguments&) { return 1; }

Attributes of(int64_t patch, const char* order, const char* output) {
  return {{"patch", patch}, {"order", std::string(order)}, {"output", std::string(output)}};
}

}  // namespace

const OperatorRow patch_gather = {
    .name = kName,
    .inputs = {{"images", InputRole::plain}, {"visible", InputRole::index, true}},
    .attributes = {{"patch", int64_t{1}}, {"order", std::string("channels_last")}, {"output", std::string("f32")}},
    .shapes = shapes,
    .cpu = cpu::make_patch_gather,
    .reference = reference,
    .flops = flops,
    .sum_length = sum_length,
    .cases =
        {
            {{{1, 1, 1, 1}, {}}, of(1, "channels_last", "f32"), {}},
            {{{2, 3, 14, 21}, {4}}, of(7, "channels_last", "f32"), {{1, {5, 0, 3, 2}}}},
            {{{2, 3, 14, 21}, {}}, of(7, "channels_first", "f32"), {}},
            {{{3, 2, 8, 12}, {6}}, of(4, "channels_last", "bf16"), {{1, {5, 0, 3, 2, 1, 4}}}},
            {{{1, 3, 28, 28}, {}}, of(14, "channels_first", "bf16"), {}},
            // Pixels beyond the last whole patch; rows of several hundred elements; a patch that is visible twice.
            {{{2, 3, 31, 47}, {6}}, of(10, "channels_last", "f32"), {{1, {11, 11, 3, 0, 4, 7}}}},
        },
};

const OperatorRow patch_gather_gradient = {
    .name = kGradient,
    .inputs = {{"rows", InputRole::plain}, {"visible", InputRole::index, true}},
    .attributes = {{"patch", int64_t{1}},
                   {"order", std::string("channels_last")},
                   {"images", int64_t{1}},
                   {"channels", int64_t{3}},
                   {"height", int64_t{1}},
                   {"width", int64_t{1}}},
    .shapes = gradient_shapes,
    .cpu = cpu::make_patch_gather_gradient,
    .reference = gradient_reference,
    .flops = flops,
    .sum_length = sum_length,
    .cases =
        {
            {{{4, 147}, {4}},
             {{"patch", int64_t{7}}, {"images", int64_t{2}}, {"height", int64_t{14}}, {"width", int64_t{21}}},
             {{1, {5, 0, 3, 2}}}},
            // Patches that are visible more than once.
            {{{8, 27}, {8}},
             {{"patch", int64_t{3}}, {"images", int64_t{2}}, {"height", int64_t{6}}, {"width", int64_t{7}}},
             {{1, {2, 0, 2, 2, 1, 1, 3, 0}}}},
            {{{12, 32}, {}},
             {{"patch", int64_t{4}},
              {"order", std::string("channels_first")},
              {"images", int64_t{2}},
              {"channels", int64_t{2}},
              {"height", int64_t{8}},
              {"width", int64_t{12}}},
             {}},
            // More than 32 patches side by side and 32 visible ones, some of them twice; pixels beyond the last whole patch.
            {{{72, 8}, {72}},
             {{"patch", int64_t{2}},
              {"images", int64_t{2}},
              {"channels", int64_t{2}},
              {"height", int64_t{5}},
              {"width", int64_t{71}}},
             {{1, spread(72, 25, 70)}}},
        },
};

}  // namespace omni_id::operators
