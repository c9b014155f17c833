#include "rendered/lighting.h"

#include <algorithm>

#include "rendered/lattice.h"

namespace omni_id::rendered {

namespace {

constexpr int kShadowSide = 112;     // cells
constexpr float kShadowExtent = 30;  // centimetres
constexpr float kCells = kShadowSide / kShadowExtent;

// Highlights: x^8 to x^128 by squaring.
float highlight(float cosine, float tightness) {
  const float x2 = cosine * cosine, x4 = x2 * x2, x8 = x4 * x4, x16 = x8 * x8, x32 = x16 * x16;
  if (tightness < 0.5f) return mix(x8, x32, 2 * tightness);
  const float x64 = x32 * x32;
  return mix(x32, x64 * x64, 2 * tightness - 1);
}

// Light on a surface; skin carries some of it, and red most, around to where the lamp does not reach.
Vec3 diffuse(const Light& light, Vec3 normal, float softness) {
  const float cosine = dot(normal, light.direction);
  const auto channel = [&](float wrap) {
    const float w = wrap * softness;
    return std::max(0.0f, (cosine + w) / (1 + w));
  };
  return light.colour * Vec3{channel(0.24f), channel(0.14f), channel(0.11f)};
}

}  // namespace

void ShadowMap::draw(const FaceModel& model, const Scene& scene, Vec3 towards_light, Vec3 centre) {
  towards_ = towards_light;
  centre_ = centre;
  right_ = normalised(cross(Vec3{0.1f, 1, 0.05f}, towards_));
  up_ = cross(towards_, right_);
  grid_.resize(scene.positions.size());
  for (size_t v = 0; v < grid_.size(); ++v) {
    const Vec3 p = scene.positions[v] - centre_;
    const auto cell = [](float x) { return floor_to_int((x * kCells + kShadowSide * 0.5f) * kGridSteps + 0.5f); };
    grid_[v] = {cell(dot(p, right_)), cell(-dot(p, up_)), dot(p, towards_)};
  }
  map_.reset(kShadowSide, kShadowSide, -1e9f);
  map_.draw(grid_, model.triangles(Part::skin), 0);
}

float ShadowMap::light_at(Vec3 p, Vec3 normal) const {
  const Vec3 q = p + normal * 0.25f - centre_;
  const float x = dot(q, right_) * kCells + kShadowSide * 0.5f - 0.5f, y = -dot(q, up_) * kCells + kShadowSide * 0.5f - 0.5f;
  const float depth = dot(q, towards_) + 0.35f;
  const int i = floor_to_int(x), j = floor_to_int(y);
  if (i < 1 || j < 1 || i + 2 >= kShadowSide || j + 2 >= kShadowSide) return 1;
  // A 4 × 4 window: the inner columns and rows whole, the outer ones by where the point lies between them.
  const float u = x - static_cast<float>(i), v = y - static_cast<float>(j);
  const float wx[4] = {1 - u, 1, 1, u}, wy[4] = {1 - v, 1, 1, v};
  float sum = 0;
  for (int b = 0; b < 4; ++b) {
    float row = 0;
    for (int a = 0; a < 4; ++a) row += map_.nearness(i - 1 + a, j - 1 + b) <= depth ? wx[a] : 0.0f;
    sum += row * wy[b];
  }
  return sum * (1.0f / 9);
}

Vec3 lit(const Surface& surface, const View& view, Vec3 normal, Vec3 to_camera, float occlusion, float key_light) {
  const float open = 0.15f + 0.85f * occlusion;
  Vec3 light = mix(view.ground, view.sky, 0.5f + 0.5f * normal.y) * open;
  light += diffuse(view.key, normal, surface.softness) * (key_light * mix(1, open, 0.35f));
  light += diffuse(view.fill, normal, surface.softness) * open;
  light += diffuse(view.rim, normal, 0) * open;
  Vec3 colour = surface.albedo * light;
  if (surface.gloss > 0) {
    const float grazing = 1 - saturate(dot(normal, to_camera));
    const float fresnel = 0.25f + 0.75f * grazing * grazing * grazing;
    const auto shine = [&](const Light& lamp) {
      const float cosine = dot(normal, normalised(lamp.direction + to_camera));
      return cosine > 0 ? highlight(cosine, surface.tightness) * surface.gloss * fresnel : 0.0f;
    };
    colour += view.key.colour * (shine(view.key) * key_light * open);
    colour += view.fill.colour * (shine(view.fill) * open);
  }
  return colour * view.exposure;
}

Vec3 background_at(const View& view, float x, float y) {
  const Vec3 slope = view.background_slope;
  const float along = saturate(0.5f + slope.x * (x - 0.5f) + slope.y * (y - 0.5f));
  const Lattice& lattice = Lattice::shared();
  const Vec3 at = Vec3{x * slope.z + 0.4f * y, y * slope.z - 0.4f * x, x + y} + view.background_origin;
  const float blob = lattice.at(at) + 0.5f * lattice.at(at * 2.3f);
  const Vec3 colour = mix(view.background[0], view.background[1], along);
  return mix(colour, view.background[2], smoothstep(-0.1f, 0.9f, blob)) * (1 + 0.06f * lattice.at(at * 5));
}

}  // namespace omni_id::rendered
