// The reconstruction loss of the masked decoder (paper, equation 4) and its gradient:
//   masked_l1: loss [1] = Σ |prediction − target| · mask / normalizer, over the pixels and channels of all images
//   masked_l1_gradient: dprediction = dloss · sign(prediction − target) · mask / normalizer
// prediction [images · patches, channels · patch²], a row per patch, [y][x][channel]; target [images, channels, height, width];
// mask [images, 1, height, width], 1 inside the face; normalizer [1]: the mask's sum times the channels, given so that a batch
// may be split. The patches of the target are never written out.
#include <cmath>

#include "cpu/operators/operators.h"
#include "graph/rounding.h"
#include "operators/patches.h"

namespace omni_id::operators {

namespace {

constexpr const char* kName = "masked_l1";

PatchGrid grid_of(const Arguments& a) { return patch_grid(a[1].shape, a.integer("patch"), false, kName); }

void require_fit(const Arguments& a) {
  const PatchGrid grid = grid_of(a);
  const Shape &images = a[1].shape, rows{grid.images * grid.patches(), grid.depth()};
  require(a[0] == TensorType{DType::f32, rows} && a[1].dtype == DType::f32 &&
              a[2] == TensorType{DType::f32, {images[0], 1, images[2], images[3]}} && a[3] == TensorType{DType::f32, {1}},
          kName,
          "prediction " + to_string(a[0]) + ", target " + to_string(a[1]) + ", mask " + to_string(a[2]) + " and normalizer " +
              to_string(a[3]) + " do not fit");
}

std::vector<TensorType> shapes(const Arguments& a) {
  require_fit(a);
  return {{DType::f32, {1}}};
}

// Calls body(element of the prediction, its difference from the target, its mask).
template <typename Body>
void each(const Arguments& a, const std::vector<ReferenceTensor>& in, const Body& body) {
  const PatchGrid grid = grid_of(a);
  const int64_t area = grid.height * grid.width;
  for (int64_t row = 0; row < grid.images * grid.patches(); ++row) {
    const int64_t image = row / grid.patches();
    for (int64_t j = 0; j < grid.depth(); ++j) {
      const int64_t at = row * grid.depth() + j, pixel = grid.pixel(row % grid.patches(), j);
      body(at, in[0].values[at] - in[1].values[image * grid.channels * area + pixel],
           in[2].values[image * area + pixel % area]);
    }
  }
}

void reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  each(a, in,
       [&](int64_t, double difference, double mask) { out[0].values[0] += std::abs(difference) * mask / in[3].values[0]; });
  // A difference and a product round once each; partial sums of a row of pixels are in f32, the others in double precision.
  out[0].errors[0] = kRoundingF32 * (4.0 + roundings_of_positives(a[1].shape[3])) * std::abs(out[0].values[0]);
}

std::vector<TensorType> gradient_shapes(const Arguments& a) {
  require_fit(a);
  require(a[4] == TensorType{DType::f32, {1}}, "masked_l1_gradient", "dloss is " + to_string(a[4]) + ", expected f32[1]");
  return {a[0]};
}

void gradient_reference(const Arguments& a, const std::vector<ReferenceTensor>& in, std::vector<ReferenceTensor>& out) {
  each(a, in, [&](int64_t at, double difference, double mask) {
    const double sign = difference > 0.0 ? 1.0 : difference < 0.0 ? -1.0 : 0.0;
    out[0].values[at] = in[4].values[0] * sign * mask / in[3].values[0];
    out[0].errors[at] = 3.0 * kRoundingF32 * std::abs(out[0].values[at]);
  });
}

// Masks and their sums are positive.
void fit_inputs(const Arguments&, std::vector<ReferenceTensor>& in) {
  for (size_t input : {2, 3}) {
    for (double& value : in[input].values) value = std::abs(value) + 0.1;
  }
}

const Attributes kTwo{{"patch", int64_t{2}}}, kSeven{{"patch", int64_t{7}}};

}  // namespace

const OperatorRow masked_l1 = {
    .name = kName,
    .inputs = {{"prediction", InputRole::plain},
               {"target", InputRole::plain},
               {"mask", InputRole::plain},
               {"normalizer", InputRole::plain}},
    .attributes = {{"patch", int64_t{1}}},
    .shapes = shapes,
    .cpu = cpu::make_masked_l1,
    .reference = reference,
    .fit_inputs = fit_inputs,
    .flops = [](const Arguments& a) { return 4.0 * static_cast<double>(a[0].elements()); },
    .sum_length = [](const Arguments& a) { return a[0].elements(); },
    .cases =
        {
            {{{1, 1}, {1, 1, 1, 1}, {1, 1, 1, 1}, {1}}, {}, {}},
            {{{12, 147}, {2, 3, 14, 21}, {2, 1, 14, 21}, {1}}, kSeven, {}},
            {{{42, 12}, {3, 3, 5, 14}, {3, 1, 5, 14}, {1}}, kTwo, {}},
        },
};

const OperatorRow masked_l1_gradient = {
    .name = "masked_l1_gradient",
    .inputs = {{"prediction", InputRole::plain},
               {"target", InputRole::plain},
               {"mask", InputRole::plain},
               {"normalizer", InputRole::plain},
               {"dloss", InputRole::plain}},
    .attributes = {{"patch", int64_t{1}}},
    .shapes = gradient_shapes,
    .in_place_input = 0,
    .cpu = cpu::make_masked_l1_gradient,
    .reference = gradient_reference,
    .fit_inputs = fit_inputs,
    .flops = [](const Arguments& a) { return 3.0 * static_cast<double>(a[0].elements()); },
    .sum_length = [](const Arguments&) { return int64_t{1}; },
    .cases =
        {
            {{{1, 1}, {1, 1, 1, 1}, {1, 1, 1, 1}, {1}, {1}}, {}, {}},
            {{{12, 147}, {2, 3, 14, 21}, {2, 1, 14, 21}, {1}, {1}}, kSeven, {}},
            {{{42, 12}, {3, 3, 5, 14}, {3, 1, 5, 14}, {1}, {1}}, kTwo, {}},
        },
};

}  // namespace omni_id::operators
