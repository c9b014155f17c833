#include "rendered/rasteriser.h"

#include <algorithm>

namespace omni_id::rendered {

namespace {

constexpr int kHalf = kGridSteps / 2;

// The first and the last sample whose middle lies within [low, high].
int first_sample(int32_t low) { return (low - kHalf + kGridSteps - 1) >> 4; }
int last_sample(int32_t high) { return (high - kHalf) >> 4; }

int64_t doubled_area(const GridVertex& a, const GridVertex& b, int64_t x, int64_t y) {
  return (int64_t{b.x} - a.x) * (y - a.y) - (int64_t{b.y} - a.y) * (x - a.x);
}

}  // namespace

void DepthBuffer::reset(int width, int height, float farthest) {
  width_ = width;
  height_ = height;
  const size_t samples = static_cast<size_t>(width) * static_cast<size_t>(height);
  nearness_.assign(samples, farthest);
  ids_.assign(samples, kNothing);
}

void DepthBuffer::draw(std::span<const GridVertex> vertices, std::span<const Triangle> triangles, int32_t first_id) {
  for (size_t t = 0; t < triangles.size(); ++t) {
    const GridVertex& a = vertices[triangles[t][0]];
    // Front faces are clockwise on a grid whose y points down: the other two corners change places.
    const GridVertex& b = vertices[triangles[t][2]];
    const GridVertex& c = vertices[triangles[t][1]];
    const int left = std::max(0, first_sample(std::min({a.x, b.x, c.x})));
    const int right = std::min(width_ - 1, last_sample(std::max({a.x, b.x, c.x})));
    const int top = std::max(0, first_sample(std::min({a.y, b.y, c.y})));
    const int bottom = std::min(height_ - 1, last_sample(std::max({a.y, b.y, c.y})));
    if (left > right || top > bottom) continue;
    const int64_t area = doubled_area(a, b, c.x, c.y);
    if (area <= 0) continue;
    const int64_t x = int64_t{left} * kGridSteps + kHalf, y = int64_t{top} * kGridSteps + kHalf;
    int64_t row_a = doubled_area(b, c, x, y), row_b = doubled_area(c, a, x, y), row_c = doubled_area(a, b, x, y);
    const float per_area = 1 / static_cast<float>(area);
    const float slope_b = (b.nearness - a.nearness) * per_area, slope_c = (c.nearness - a.nearness) * per_area;
    for (int j = top; j <= bottom; ++j) {
      int64_t wa = row_a, wb = row_b, wc = row_c;
      const size_t row = index(0, j);
      for (int i = left; i <= right; ++i) {
        if ((wa | wb | wc) >= 0) {
          const float nearness = a.nearness + (static_cast<float>(wb) * slope_b + static_cast<float>(wc) * slope_c);
          const size_t at = row + static_cast<size_t>(i);
          if (nearness > nearness_[at]) {
            nearness_[at] = nearness;
            ids_[at] = first_id + static_cast<int32_t>(t);
          }
        }
        wa -= int64_t{kGridSteps} * (c.y - b.y);
        wb -= int64_t{kGridSteps} * (a.y - c.y);
        wc -= int64_t{kGridSteps} * (b.y - a.y);
      }
      row_a += int64_t{kGridSteps} * (c.x - b.x);
      row_b += int64_t{kGridSteps} * (a.x - c.x);
      row_c += int64_t{kGridSteps} * (b.x - a.x);
    }
  }
}

Shares shares_at(const GridVertex& a, const GridVertex& b, const GridVertex& c, int x, int y) {
  const int64_t px = int64_t{x} * kGridSteps + kHalf, py = int64_t{y} * kGridSteps + kHalf;
  const float area = static_cast<float>(doubled_area(a, b, c.x, c.y));
  const float second = static_cast<float>(doubled_area(c, a, px, py)) / area;
  return {second, static_cast<float>(doubled_area(a, b, px, py)) / area};
}

}  // namespace omni_id::rendered
