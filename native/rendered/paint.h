#pragma once

#include <array>

#include "rendered/person.h"
#include "rendered/view.h"

namespace omni_id::rendered {

// How a point of a surface answers light.
struct Surface {
  Vec3 albedo;
  float gloss = 0;      // strength of the highlight
  float tightness = 0;  // 0: broad, 1: a point
  float softness = 0;   // light that skin carries around edges
  float cover = 0;      // 1: hair or cloth, which is not face
};

// Curves of the mean face that brows and lips follow, over the distance from the middle.
class Features {
 public:
  explicit Features(const FaceModel& model);
  float brow(float side) const { return at(brow_, side, 0, 7); }
  float upper_lip(float side) const { return at(upper_lip_, side, 0, 2.6f); }
  float lower_lip(float side) const { return at(lower_lip_, side, 0, 2.6f); }

 private:
  static constexpr int kSteps = 64;
  using Curve = std::array<float, kSteps + 1>;
  static float at(const Curve& curve, float x, float from, float to);
  Curve brow_, upper_lip_, lower_lip_;
};

// The colours of one person in one view, as functions of the position on the mean head: no texture is needed.
class Paint {
 public:
  Paint(const FaceModel& model, const Features& features, const Person& person, const View& view)
      : model_(model), features_(features), person_(person), view_(view) {}

  Surface skin(Vec3 p, const VertexPaint& paint) const;
  Surface mouth() const;
  Surface socket() const;
  Surface teeth(Vec3 p) const;
  Surface eye(Vec3 p) const;
  Surface glasses() const;
  Surface cloth(Vec3 p) const;

 private:
  float brow_cover(Vec3 p, float side) const;
  float beard_cover(Vec3 p, const VertexPaint& paint) const;
  Vec3 hair_colour(Vec3 p) const;
  Vec3 skin_colour(Vec3 p, float side) const;

  const FaceModel& model_;
  const Features& features_;
  const Person& person_;
  const View& view_;
};

}  // namespace omni_id::rendered
