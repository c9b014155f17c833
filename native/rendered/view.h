#pragma once

#include <array>
#include <optional>

#include "rendered/face_model.h"
#include "rendered/random.h"

namespace omni_id::rendered {

// Degrees. Yaw turns the face to the image's right, pitch raises it, roll tilts it clockwise.
struct Pose {
  float yaw = 0, pitch = 0, roll = 0;
};

struct Light {
  Vec3 direction;  // towards it
  Vec3 colour;
};

struct View {
  Pose pose;
  float distance;                // cm, to the middle of the head
  float zoom, shift_x, shift_y;  // of the crop: 1 and 0 without jitter
  std::array<float, kExpressions> expression{};
  float gaze_x, gaze_y;  // −1 to 1; from the viewer: right, up
  float pupil;
  Vec3 sky, ground;  // light from all around
  Light key, fill, rim;
  float exposure;
  Vec3 background[3];
  Vec3 background_origin, background_slope;
  Vec3 cloth;
  float collar;  // its height
  bool glasses;
  Vec3 glasses_colour;
  float glasses_width, glasses_height, glasses_thickness, glasses_roundness;
  float grain;
};

// What a caller may fix.
struct ViewRequest {
  std::optional<Pose> pose;
  float pose_spread = 1;  // factor of the drawn angles
  bool neutral_expression = false;
  bool jitter = true;
  std::optional<bool> glasses;
};

View draw_view(uint64_t seed, uint64_t number, const ViewRequest& request);

}  // namespace omni_id::rendered
