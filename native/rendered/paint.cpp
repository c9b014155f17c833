#include "rendered/paint.h"

#include <algorithm>

#include "rendered/lattice.h"

namespace omni_id::rendered {

namespace {

struct Point {
  float x, y;
};

// Through all points, smooth (Catmull-Rom); level beyond the ends.
float smooth_curve(const Point* points, int count, float x) {
  if (x <= points[0].x) return points[0].y;
  for (int i = 0; i + 1 < count; ++i) {
    if (x > points[i + 1].x) continue;
    const float p0 = points[std::max(i - 1, 0)].y, p1 = points[i].y, p2 = points[i + 1].y,
                p3 = points[std::min(i + 2, count - 1)].y;
    const float t = (x - points[i].x) / (points[i + 1].x - points[i].x);
    return p1 + 0.5f * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)));
  }
  return points[count - 1].y;
}

}  // namespace

Features::Features(const FaceModel& model) {
  // The mean of both sides.
  const auto mean = [&](int left, int right) {
    const auto at = [&](int i) { return model.neutral()[static_cast<size_t>(model.landmarks()[static_cast<size_t>(i)])]; };
    const Vec3 a = at(left), b = at(right);
    return Point{0.5f * (b.x - a.x), 0.5f * (a.y + b.y)};
  };
  Point brow[5], upper[4], lower[4];
  for (int i = 0; i < 5; ++i) brow[i] = mean(21 - i, 22 + i);
  for (int i = 0; i < 4; ++i) upper[i] = mean(51 - i, 51 + i);
  for (int i = 0; i < 3; ++i) lower[i] = mean(57 + i, 57 - i);
  lower[3] = upper[3];
  for (int i = 0; i <= kSteps; ++i) {
    const float t = static_cast<float>(i) / kSteps;
    const auto k = static_cast<size_t>(i);
    brow_[k] = smooth_curve(brow, 5, 7 * t);
    upper_lip_[k] = smooth_curve(upper, 4, 2.6f * t);
    lower_lip_[k] = smooth_curve(lower, 4, 2.6f * t);
  }
}

float Features::at(const Curve& curve, float x, float from, float to) {
  const float t = clamp((x - from) / (to - from), 0, 0.9999f) * kSteps;
  const auto i = static_cast<size_t>(t);
  return mix(curve[i], curve[i + 1], t - static_cast<float>(i));
}

float Paint::brow_cover(Vec3 p, float side) const {
  if (p.y < 4 || p.y > 8.2f || side > 7 || p.z < 5) return 0;
  const Colouring& c = person_.colouring;
  const float along = (side - 0.9f) / (c.brow_length - 0.9f);
  const float middle = features_.brow(side) + c.brow_lift + c.brow_arch * hump((along - 0.62f) * 1.9f);
  const float width = c.brow_width * mix(1.05f, 0.4f, along * along);
  const float away = std::abs(p.y - middle);
  if (away > width + 0.2f) return 0;
  const float strands = Lattice::shared().at(Vec3{side * 4 + p.y * 5, p.y * 6 - side * 7, 3} + c.noise_origin);
  return saturate(smoothstep(width + 0.2f, width * 0.45f, away + 0.09f * strands) * smoothstep(-0.04f, 0.16f, along) *
                  smoothstep(1.08f, 0.8f, along) * c.brow_density * (1 + 0.25f * strands));
}

float Paint::beard_cover(Vec3 p, const VertexPaint& paint) const {
  const Colouring& c = person_.colouring;
  const float region = std::max(std::max(paint.beard * c.beard, paint.moustache * c.moustache), paint.goatee * c.goatee);
  if (region <= 0.01f) return 0;
  const float strands = Lattice::shared().at(Vec3{p.x * 5, p.y * 2.5f, p.z * 5} + c.noise_origin);
  return saturate(region * (1 + 0.3f * strands));
}

Vec3 Paint::hair_colour(Vec3 p) const {
  const Colouring& c = person_.colouring;
  const Lattice& lattice = Lattice::shared();
  // Strands run backwards over the head and down its sides.
  const float strands = lattice.at(Vec3{p.x * 4.5f, p.y * 0.5f, p.z * 0.8f} + c.noise_origin) +
                        0.6f * lattice.at(Vec3{p.x * 9, p.y * 0.8f, p.z * 1.5f} + c.noise_origin);
  return c.hair_colour * (1 + 0.4f * strands) + Vec3{0.006f, 0.005f, 0.005f};
}

Vec3 Paint::skin_colour(Vec3 p, float side) const {
  const Colouring& c = person_.colouring;
  const Lattice& lattice = Lattice::shared();
  const float coarse = lattice.at(p * 0.35f + c.noise_origin), fine = lattice.at(p * 1.7f + c.noise_origin);
  Vec3 skin = c.skin * (1 + c.blotches * (coarse + 0.45f * fine));
  if (p.z < 2) return skin;
  const Vec3 mirrored{side, p.y, p.z};
  const float red = c.redness * (0.8f * hump(mirrored, {4.4f, -0.1f, 8}, {2.8f, 2.6f, 4}) +
                                 0.6f * hump(mirrored, {0, 0.2f, 12.5f}, {1.5f, 1.5f, 2.2f}) +
                                 0.25f * hump(mirrored, {0, -6.5f, 10}, {2, 1.5f, 2}));
  skin = skin * Vec3{1 + 0.04f * red, 1 - 0.3f * red, 1 - 0.28f * red};
  const float tired = c.under_eyes * hump(mirrored, {3, 2.1f, 9.3f}, {1.8f, 0.9f, 2});
  skin = skin * Vec3{1 - 0.55f * tired, 1 - 0.65f * tired, 1 - 0.5f * tired};
  if (c.freckles > 0) {
    const float where = hump(mirrored, {2.6f, 1, 9.5f}, {4.2f, 3, 5});
    const float spots = smoothstep(0.35f, 0.6f, lattice.at(p * 4.3f + c.noise_origin));
    skin = mix(skin, skin * Vec3{0.6f, 0.42f, 0.32f}, c.freckles * where * spots);
  }
  for (const Mole& mole : c.moles) {
    if (mole.radius == 0) continue;
    const float dx = (p.x - mole.x) / mole.radius, dy = (p.y - mole.y) / mole.radius;
    const float inside = hump(0.7f * std::sqrt(dx * dx + dy * dy));
    skin = mix(skin, skin * Vec3{0.3f, 0.2f, 0.17f}, mole.darkness * std::min(1.0f, 1.6f * inside));
  }
  return skin;
}

Surface Paint::skin(Vec3 p, const VertexPaint& paint) const {
  const Colouring& c = person_.colouring;
  const float side = p.x < 0 ? -p.x : p.x;
  if (p.y < view_.collar) return cloth(p);
  Surface surface;
  surface.albedo = skin_colour(p, side);
  surface.gloss = 0.28f * c.gloss;
  surface.tightness = 0.35f;
  surface.softness = 1;

  float lip = 0;
  if (side < 2.62f && p.z > 8.6f && p.y < -1.5f && p.y > -5.5f) {
    const float inside = std::min(features_.upper_lip(side) - p.y, p.y - features_.lower_lip(side));
    lip = smoothstep(-0.12f, 0.16f, inside);
    surface.albedo = mix(surface.albedo, c.lips, lip * c.lip_strength);
    surface.gloss += 0.25f * lip;
  }
  const float brow = brow_cover(p, side);
  surface.albedo = mix(surface.albedo, c.brow_colour, brow);
  const float beard = beard_cover(p, paint) * (1 - lip);
  if (beard > 0) surface.albedo = mix(surface.albedo, hair_colour(p) * 0.55f + c.beard_colour * 0.3f, beard);
  surface.gloss *= 1 - std::max(brow, beard);
  surface.albedo = surface.albedo * (1 - 0.82f * paint.lash);

  const float above = scalp_height(c, p, paint);
  if (above > -0.8f) {
    const float ragged = Lattice::shared().at(Vec3{p.x * 3, p.y * 2, p.z * 3} + c.noise_origin);
    float hair = smoothstep(-0.35f, 0.55f, above + (p.y > 6 ? 0.4f : 0.12f) * ragged);
    if (c.hair == Hair::shaved) hair *= 0.55f;
    surface.albedo = mix(surface.albedo, hair_colour(p), hair);
    surface.gloss = mix(surface.gloss, c.hair == Hair::shaved ? 0.06f : 0.1f, hair);
    surface.softness = 1 - hair;
    surface.cover = hair;
  }
  return surface;
}

Surface Paint::cloth(Vec3 p) const {
  const float weave = Lattice::shared().at(p * 0.8f + view_.background_origin);
  return {.albedo = view_.cloth * (1 + 0.15f * weave), .cover = 1};
}

Surface Paint::mouth() const { return {.albedo = {0.32f, 0.09f, 0.08f}, .gloss = 0.15f, .tightness = 0.5f, .softness = 0.5f}; }

Surface Paint::socket() const { return {.albedo = person_.colouring.skin * Vec3{0.85f, 0.55f, 0.5f}, .softness = 1}; }

Surface Paint::teeth(Vec3 p) const {
  const float shade = smoothstep(7.5f, 10.5f, p.z);
  return {.albedo = Vec3{0.72f, 0.68f, 0.58f} * mix(0.4f, 1, shade), .gloss = 0.25f, .tightness = 0.7f};
}

Surface Paint::eye(Vec3 p) const {
  const Colouring& c = person_.colouring;
  const Vec3 out = normalised(p - model_.eye_centre(p.x > 0 ? 0 : 1));
  const Vec3 gaze = normalised(Vec3{0.5f * view_.gaze_x, 0.38f * view_.gaze_y, 1});
  // The iris seen as a disc on the eyeball: 0 at its middle, 1 at its edge (24° away).
  const Vec3 away = out - gaze;
  const float radius = length(away) / 0.415f;
  Vec3 white = mix(Vec3{0.56f, 0.53f, 0.5f}, Vec3{0.55f, 0.33f, 0.3f}, smoothstep(1.3f, 3.2f, radius) * 0.6f);
  if (radius < 1.15f) {
    const float fibres = Lattice::shared().at(away * 14 + c.noise_origin);
    Vec3 iris = c.iris * (1 + 0.3f * c.iris_detail * fibres) * mix(1.25f, 0.75f, radius);
    iris = iris * mix(1, 0.4f, smoothstep(0.78f, 1, radius));
    iris = mix(iris, Vec3{0.006f, 0.005f, 0.005f}, smoothstep(view_.pupil + 0.1f, view_.pupil - 0.06f, radius));
    white = mix(iris, white, smoothstep(0.93f, 1.12f, radius));
  }
  // The upper lid and its lashes shade the eye.
  white = white * (1 - 0.6f * smoothstep(0.12f, 0.42f, out.y));
  return {.albedo = white, .gloss = radius < 1.2f ? 2.2f : 0.5f, .tightness = 1};
}

Surface Paint::glasses() const { return {.albedo = view_.glasses_colour, .gloss = 0.6f, .tightness = 0.6f, .cover = 1}; }

}  // namespace omni_id::rendered
