#include "rendered/scene.h"

#include <algorithm>

namespace omni_id::rendered {

namespace {

// Where the head turns, and the middle of the face's surface, which the crop is measured at.
constexpr Vec3 kPivot{0, 0, 2};
constexpr float kFaceDepth = 6;
// Side of a tight crop at the face: 17 cm from chin to hairline, and a margin.
constexpr float kCropSide = 18.5f;
// A face whose mouth is wide open gets at least this margin around its landmarks.
constexpr float kLeastMargin = 1.06f;

class Rotation {
 public:
  explicit Rotation(const Pose& pose)
      : yaw_(sine_cosine(pose.yaw)), pitch_(sine_cosine(pose.pitch)), roll_(sine_cosine(pose.roll)) {}
  // Pitch about the head's own axis, then yaw about the upright one, then roll in the image.
  Vec3 operator()(Vec3 p) const {
    const float y = p.y * pitch_.cosine + p.z * pitch_.sine, z = p.z * pitch_.cosine - p.y * pitch_.sine;
    const float x = p.x * yaw_.cosine + z * yaw_.sine;
    return {x * roll_.cosine + y * roll_.sine, y * roll_.cosine - x * roll_.sine, z * yaw_.cosine - p.x * yaw_.sine};
  }

 private:
  SineCosine yaw_, pitch_, roll_;
};

struct Camera {
  float centre_x, centre_y, scale, half;
  float x(Vec3 p) const { return (p.x / -p.z - centre_x) * scale + half; }
  float y(Vec3 p) const { return half - (p.y / -p.z - centre_y) * scale; }
  GridVertex grid(Vec3 p) const {
    constexpr float kSteps = kSamples * kGridSteps;
    return {floor_to_int(x(p) * kSteps + 0.5f), floor_to_int(y(p) * kSteps + 0.5f), -1 / p.z};
  }
};

}  // namespace

void pose_scene(const FaceModel& model, const Person& person, const View& view, int size, float crop, Scene& scene) {
  scene.head = person.positions;
  for (int e = 0; e < kExpressions; ++e) {
    const float weight = view.expression[static_cast<size_t>(e)];
    if (weight != 0) model.add_expression(e, weight, scene.head);
  }
  const Rotation rotate(view.pose);
  const auto placed = [&](Vec3 p) { return rotate(p - kPivot) - Vec3{0, 0, view.distance}; };

  // The crop follows the bare face, not hair and beard.
  std::array<Vec3, kLandmarks + 1> marks;
  for (int i = 0; i <= kLandmarks; ++i) {
    const int v = i < kLandmarks ? model.landmarks()[static_cast<size_t>(i)] : model.forehead();
    marks[static_cast<size_t>(i)] = placed(scene.head[static_cast<size_t>(v)]);
  }
  float left = 1e9f, right = -1e9f, top = -1e9f, bottom = 1e9f;
  for (const Vec3 p : marks) {
    const float u = p.x / -p.z, v = p.y / -p.z;
    left = std::min(left, u);
    right = std::max(right, u);
    bottom = std::min(bottom, v);
    top = std::max(top, v);
  }
  const float usual = kCropSide / (view.distance - kFaceDepth);
  const float side = std::max(usual, kLeastMargin * std::max(right - left, top - bottom)) * view.zoom * crop;
  const float pixels = static_cast<float>(size);
  const Camera camera{0.5f * (left + right) + view.shift_x * side, 0.5f * (top + bottom) + view.shift_y * side, pixels / side,
                      0.5f * pixels};
  scene.centre_x = camera.centre_x;
  scene.centre_y = camera.centre_y;
  scene.scale = camera.scale;
  for (size_t i = 0; i < kLandmarks; ++i) {
    scene.landmarks[2 * i] = camera.x(marks[i]);
    scene.landmarks[2 * i + 1] = camera.y(marks[i]);
  }
  const auto apart = [&](size_t a, size_t b) { return length(marks[a] - marks[b]); };
  scene.mouth_open = std::max({apart(61, 67), apart(62, 66), apart(63, 65)}) > 0.12f;

  for (size_t v = 0; v < scene.head.size(); ++v) scene.head[v] += person.cover[v];
  vertex_normals(scene.head, model.triangles(), scene.normals);
  const size_t count = scene.head.size();
  scene.positions.resize(count);
  scene.grid.resize(count);
  for (size_t v = 0; v < count; ++v) {
    scene.positions[v] = placed(scene.head[v]);
    scene.normals[v] = rotate(scene.normals[v]);
    scene.grid[v] = camera.grid(scene.positions[v]);
  }

  Glasses& glasses = scene.glasses;
  glasses.triangles.clear();
  scene.glasses_grid.clear();
  if (!view.glasses) return;
  make_glasses(model, person.positions, view, glasses);
  for (size_t v = 0; v < glasses.positions.size(); ++v) {
    glasses.positions[v] = placed(glasses.positions[v]);
    glasses.normals[v] = rotate(glasses.normals[v]);
    scene.glasses_grid.push_back(camera.grid(glasses.positions[v]));
  }
}

}  // namespace omni_id::rendered
