#pragma once

#include "rendered/glasses.h"
#include "rendered/person.h"
#include "rendered/rasteriser.h"

namespace omni_id::rendered {

// One person in one view, in front of the camera: x to the image's right, y up, the camera at z = 0 looking towards −z.
struct Scene {
  std::vector<Vec3> head;  // the head's coordinates, with expression
  std::vector<Vec3> positions, normals;
  std::vector<GridVertex> grid;
  Glasses glasses;  // positions and normals in camera space too
  std::vector<GridVertex> glasses_grid;
  bool mouth_open = false;
  // A point at (x, y, −d) falls on pixel (x / d − centre_x) · scale + size / 2; y likewise, downwards.
  float centre_x = 0, centre_y = 0, scale = 0;
  std::array<float, 2 * kLandmarks> landmarks{};
};

inline constexpr int kSamples = 2;  // a pixel has kSamples × kSamples of them

// Fills `scene`, whose memory is used again.
void pose_scene(const FaceModel& model, const Person& person, const View& view, int size, float crop, Scene& scene);

}  // namespace omni_id::rendered
