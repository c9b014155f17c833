#pragma once

#include <vector>

#include "rendered/view.h"

namespace omni_id::rendered {

// A frame without lenses: two rims, a bridge and two temples, made to sit on this head.
struct Glasses {
  std::vector<Vec3> positions, normals;
  std::vector<Triangle> triangles;
};

// `positions`: all vertices of the head, in the head's coordinates and without expression.
void make_glasses(const FaceModel& model, std::span<const Vec3> positions, const View& view, Glasses& glasses);

}  // namespace omni_id::rendered
