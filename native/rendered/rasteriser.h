#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "rendered/face_model.h"

namespace omni_id::rendered {

// A vertex on the grid of samples: position in sixteenths of a sample, y down; nearer means a larger `nearness`.
struct GridVertex {
  int32_t x, y;
  float nearness;
};

inline constexpr int kGridSteps = 16;

// What is nearest at every sample.
class DepthBuffer {
 public:
  static constexpr int32_t kNothing = -1;

  void reset(int width, int height, float farthest);
  // Draws the triangles that show their front (counter-clockwise seen with y up); the first is `first_id`. Where two are
  // equally near the first wins.
  void draw(std::span<const GridVertex> vertices, std::span<const Triangle> triangles, int32_t first_id);

  int width() const { return width_; }
  int height() const { return height_; }
  float nearness(int x, int y) const { return nearness_[index(x, y)]; }
  int32_t id(int x, int y) const { return ids_[index(x, y)]; }

 private:
  size_t index(int x, int y) const { return static_cast<size_t>(y) * static_cast<size_t>(width_) + static_cast<size_t>(x); }

  int width_ = 0, height_ = 0;
  std::vector<float> nearness_;
  std::vector<int32_t> ids_;
};

// Shares of the second and third corner at the middle of a sample, on the grid (not corrected for perspective).
struct Shares {
  float second, third;
};
Shares shares_at(const GridVertex& a, const GridVertex& b, const GridVertex& c, int x, int y);

}  // namespace omni_id::rendered
