#include "rendered/glasses.h"

#include <algorithm>

namespace omni_id::rendered {

namespace {

constexpr int kAround = 28;  // corners of a rim
constexpr int kTube = 5;     // corners of its cross-section

// A tube through `points`; `closed` joins the ends.
void add_tube(Glasses& glasses, std::span<const Vec3> points, float radius, bool closed) {
  const size_t first = glasses.positions.size(), count = points.size();
  for (size_t i = 0; i < count; ++i) {
    const Vec3 before = points[i > 0 ? i - 1 : closed ? count - 1 : 0];
    const Vec3 after = points[i + 1 < count ? i + 1 : closed ? 0 : count - 1];
    const Vec3 along = normalised(after - before);
    const Vec3 up = normalised(cross(along, Vec3{0.31f, 0.11f, 0.94f})), side = cross(along, up);
    for (int k = 0; k < kTube; ++k) {
      const SineCosine angle = sine_cosine(static_cast<float>(k) * (360.0f / kTube) - 180);
      const Vec3 normal = up * angle.cosine + side * angle.sine;
      glasses.positions.push_back(points[i] + normal * radius);
      glasses.normals.push_back(normal);
    }
  }
  for (size_t i = 0; i + (closed ? 0 : 1) < count; ++i) {
    const size_t ring = first + i * kTube, next = first + ((i + 1) % count) * kTube;
    for (size_t k = 0; k < kTube; ++k) {
      const size_t l = (k + 1) % kTube;
      const auto corner = [](size_t v) { return static_cast<uint16_t>(v); };
      glasses.triangles.push_back({corner(ring + k), corner(ring + l), corner(next + k)});
      glasses.triangles.push_back({corner(ring + l), corner(next + l), corner(next + k)});
    }
  }
}

// A lens's outline: between an ellipse and a rectangle.
Vec3 rim_point(const View& view, int i) {
  const SineCosine angle = sine_cosine(static_cast<float>(i) * (360.0f / kAround) - 180);
  const float a = std::abs(angle.cosine), b = std::abs(angle.sine);
  const float square = 1 / std::max(a, b), stretch = mix(1, mix(1, square, 0.75f), view.glasses_roundness);
  return {view.glasses_width * angle.cosine * stretch, view.glasses_height * angle.sine * stretch, 0};
}

}  // namespace

void make_glasses(const FaceModel& model, std::span<const Vec3> positions, const View& view, Glasses& glasses) {
  glasses.positions.clear();
  glasses.normals.clear();
  glasses.triangles.clear();
  const auto landmark = [&](int i) { return positions[static_cast<size_t>(model.landmarks()[static_cast<size_t>(i)])]; };
  const Vec3 bridge = landmark(27);
  for (const int side : {0, 1}) {  // the image's left, then right
    const int corner = side == 0 ? 36 : 42;
    Vec3 centre = (landmark(corner) + landmark(corner + 3)) * 0.5f;
    centre.y = mix(centre.y, bridge.y, 0.3f) - 0.25f;
    // In front of brows and cheeks, but never further than the nose's bridge carries them.
    centre.z = std::max(landmark(side == 0 ? 19 : 24).z, bridge.z) + 0.35f;
    const float outwards = side == 0 ? -1.0f : 1.0f;
    std::vector<Vec3> rim;
    for (int i = 0; i < kAround; ++i) {
      Vec3 point = rim_point(view, i);
      point.z =
          -0.06f * std::max(0.0f, outwards * point.x) * std::max(0.0f, outwards * point.x) - 0.05f * std::max(0.0f, -point.y);
      rim.push_back(centre + point);
    }
    add_tube(glasses, rim, view.glasses_thickness, true);
    const Vec3 hinge = centre + Vec3{outwards * (view.glasses_width + 0.05f), 0.45f * view.glasses_height, -0.35f};
    const Vec3 jaw = landmark(side == 0 ? 0 : 16);
    const Vec3 ear{jaw.x + outwards * 0.7f, jaw.y + 1.6f, jaw.z - 3.4f};
    add_tube(glasses, std::array{hinge, mix(hinge, ear, 0.5f) + Vec3{outwards * 0.35f, 0.1f, 0}, ear},
             view.glasses_thickness * 0.8f, false);
  }
  const Vec3 left = glasses.positions[0], middle = bridge + Vec3{0, 0.15f, 0.45f};
  const float reach = 0.5f;
  add_tube(glasses,
           std::array{Vec3{middle.x - reach * 1.6f, middle.y - 0.1f, left.z}, Vec3{middle.x, middle.y + 0.15f, middle.z},
                      Vec3{middle.x + reach * 1.6f, middle.y - 0.1f, left.z}},
           view.glasses_thickness * 0.8f, false);
}

}  // namespace omni_id::rendered
