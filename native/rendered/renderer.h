#pragma once

#include <list>
#include <memory>
#include <mutex>

#include "rendered/paint.h"

namespace omni_id::rendered {

struct RenderRequest {
  uint64_t shape_seed = 0, colouring_seed = 0;
  uint64_t view_seed = 0, view_number = 0;
  int size = 112;
  float crop = 1;  // side of the image over that of a tight crop
  ViewRequest view;
};

struct RenderedImage {
  std::vector<uint8_t> pixels;  // RGB [size, size, 3]
  std::vector<uint8_t> mask;    // [size, size]: 255 where most of the pixel is face
  Pose pose;
  std::array<float, 2 * kLandmarks> landmarks{};  // pixels, the first pixel's middle is (0.5, 0.5)
  std::array<float, kModes> identity{};
  std::array<float, kExpressions> expression{};
};

// Draws people. Everything in an image follows from its request; safe to use from several threads.
class Renderer {
 public:
  explicit Renderer(FaceModel model) : model_(std::move(model)), features_(model_) {}

  RenderedImage render(const RenderRequest& request) const;

 private:
  std::shared_ptr<const Person> person(uint64_t shape_seed, uint64_t colouring_seed) const;

  FaceModel model_;
  Features features_;
  // People that were drawn lately: a person's photos are mostly asked for one after another.
  struct Known {
    uint64_t shape_seed, colouring_seed;
    std::shared_ptr<const Person> person;
  };
  mutable std::mutex mutex_;
  mutable std::list<Known> known_;
};

}  // namespace omni_id::rendered
