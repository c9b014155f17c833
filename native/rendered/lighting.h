#pragma once

#include "rendered/paint.h"
#include "rendered/scene.h"

namespace omni_id::rendered {

// Soft shadows of the key light: what it sees, on a grid of its own.
class ShadowMap {
 public:
  void draw(const FaceModel& model, const Scene& scene, Vec3 towards_light, Vec3 centre);
  // 1 in the light, 0 in the shadow.
  float light_at(Vec3 p, Vec3 normal) const;

 private:
  DepthBuffer map_;
  std::vector<GridVertex> grid_;
  Vec3 right_, up_, towards_, centre_;
};

// Light that reaches the camera from a point of a surface.
Vec3 lit(const Surface& surface, const View& view, Vec3 normal, Vec3 to_camera, float occlusion, float key_light);

// What is behind the head at (x, y), 0 to 1 across the image.
Vec3 background_at(const View& view, float x, float y);

}  // namespace omni_id::rendered
