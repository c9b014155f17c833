#include "rendered/face_model.h"

#include <algorithm>

#include "base/error.h"

namespace omni_id::rendered {

namespace {

constexpr size_t kWideModes = 16;

[[noreturn]] void damaged(const std::string& what) { throw EngineError(kWeights, "the face model is damaged: " + what); }

struct Knot {
  float at, value;
};

float interpolated(std::span<const Knot> knots, float at) {
  if (at <= knots.front().at) return knots.front().value;
  for (size_t i = 1; i < knots.size(); ++i) {
    const Knot &a = knots[i - 1], &b = knots[i];
    if (at <= b.at) return mix(a.value, b.value, (at - a.at) / (b.at - a.at));
  }
  return knots.back().value;
}

// Height of the usual hairline, from the nape (z −9) over the ears (z 0), the sideburns (z 4) and the temples to the forehead
// (z 10).
constexpr Knot kHairline[] = {{-9, -6},  {-6, -5},  {-4, -2.5f},  {-2.6f, 2}, {-1.9f, 7},   {1.8f, 7.2f},
                              {2.6f, 4}, {3.6f, 2}, {4.6f, 4.5f}, {5.6f, 7},  {7.2f, 8.6f}, {10, 9.6f}};
// Height of a beard's edge on the cheek, from the middle outwards.
constexpr Knot kCheekLine[] = {{0, -2.6f}, {2.4f, -2.6f}, {3.5f, -2.9f}, {5, -2}, {6.2f, -0.2f}, {6.9f, 2}, {7.6f, 4}};

// An ear and what is `around` it, in centimetres.
bool is_ear(Vec3 p, float around) {
  const float side = p.x < 0 ? -p.x : p.x;
  return side > 7.35f - around && p.y < 7.7f && p.y > -2.2f && p.z > -2.4f && p.z < 2.4f + 0.5f * around;
}

VertexPaint paint_of(Vec3 p) {
  const float side = p.x < 0 ? -p.x : p.x;
  VertexPaint paint{};
  const float above = p.y - interpolated(kHairline, p.z);
  paint.scalp = is_ear(p, 0) ? -1 : above;
  // Long hair covers the ears and the back and the sides of the neck.
  const float behind = (1.3f - p.z) * 1.5f;
  paint.curtain = is_ear(p, 0.5f) ? 1.5f : std::max(above, std::min(behind, p.y + 17));
  const float below_cheek = smoothstep(0.3f, -0.9f, p.y - interpolated(kCheekLine, side));
  const float front = smoothstep(0.8f, 2.2f, p.z), not_neck = smoothstep(-10.3f, -8.2f, p.y);
  paint.beard = below_cheek * front * not_neck;
  paint.moustache = smoothstep(3.2f, 2, side) * smoothstep(-1.2f, -1.9f, p.y + 0.11f * side * side) *
                    smoothstep(-4.4f, -3.2f, p.y) * smoothstep(8, 9, p.z);
  paint.goatee = smoothstep(3.2f, 1.6f, side + 0.12f * (p.y + 7) * (p.y + 7) * 0.5f) * smoothstep(-3.3f, -4.6f, p.y) *
                 not_neck * smoothstep(6, 7.5f, p.z);
  return paint;
}

}  // namespace

template <typename Element>
std::span<const Element> FaceModel::tensor(const std::map<std::string, PackedTensor>& tensors, const char* name,
                                           size_t count) const {
  const auto found = tensors.find(name);
  if (found == tensors.end()) damaged(std::string("it has no tensor ") + name);
  const auto [offset, bytes] = found->second;
  if (offset > file_->size() || bytes > file_->size() - offset)
    damaged(std::string(name) + " reaches past the end of the file");
  if (offset % alignof(Element) != 0) damaged(std::string(name) + " is not aligned");
  if (bytes % sizeof(Element) != 0 || (count != 0 && bytes != count * sizeof(Element))) {
    damaged(std::string(name) + " has " + std::to_string(bytes) + " bytes, expected " +
            std::to_string(count * sizeof(Element)));
  }
  return {reinterpret_cast<const Element*>(file_->data() + offset), bytes / sizeof(Element)};
}

FaceModel::FaceModel(std::shared_ptr<const MappedFile> file, const std::map<std::string, PackedTensor>& tensors)
    : file_(std::move(file)) {
  neutral_ = tensor<Vec3>(tensors, "neutral", 0);
  const size_t count = neutral_.size();
  if (count < kFaceVertices || count > 65535) damaged("it has " + std::to_string(count) + " vertices");
  triangles_ = tensor<Triangle>(tensors, "triangles", 0);
  const auto part_triangles = tensor<int32_t>(tensors, "part_triangles", kParts);
  identity_scales_ = tensor<float>(tensors, "identity_scales", kModes);
  identity_wide_ = tensor<int16_t>(tensors, "identity_wide", kWideModes * count * 3);
  identity_narrow_ = tensor<int8_t>(tensors, "identity_narrow", (kModes - kWideModes) * count * 3);
  expression_scales_ = tensor<float>(tensors, "expression_scales", kExpressions);
  expression_starts_ = tensor<int32_t>(tensors, "expression_starts", kExpressions + 1);
  expression_vertices_ = tensor<uint16_t>(tensors, "expression_vertices", 0);
  expression_movement_ = tensor<int16_t>(tensors, "expression_movement", expression_vertices_.size() * 3);
  landmarks_ = tensor<int32_t>(tensors, "landmarks68", kLandmarks);
  eye_centres_ = tensor<Vec3>(tensors, "eye_centres", 2);
  const auto occlusion = tensor<uint8_t>(tensors, "occlusion", count);
  const auto lashes = tensor<uint8_t>(tensors, "lashes", count);

  for (int part = 0; part < kParts; ++part) {
    const auto i = static_cast<size_t>(part);
    if (part_triangles[i] < 0 || part_triangles[i] > 65535 * 4) damaged("part_triangles");
    first_triangle_[i + 1] = first_triangle_[i] + part_triangles[i];
  }
  if (static_cast<size_t>(first_triangle_.back()) != triangles_.size()) damaged("part_triangles do not add up");
  for (const Triangle& corners : triangles_) {
    for (const uint16_t v : corners) {
      if (v >= count) damaged("a triangle has a vertex that is not there");
    }
  }
  for (const int32_t v : landmarks_) {
    if (v < 0 || static_cast<size_t>(v) >= count) damaged("a landmark is not there");
  }
  for (const uint16_t v : expression_vertices_) {
    if (v >= count) damaged("an expression moves a vertex that is not there");
  }
  for (size_t e = 0; e < kExpressions; ++e) {
    if (expression_starts_[e] < 0 || expression_starts_[e] > expression_starts_[e + 1] ||
        static_cast<size_t>(expression_starts_[e + 1]) > expression_vertices_.size()) {
      damaged("expression_starts");
    }
  }
  paint_vertices(occlusion, lashes);
}

void FaceModel::paint_vertices(std::span<const uint8_t> occlusion, std::span<const uint8_t> lashes) {
  paint_.reserve(neutral_.size());
  for (size_t v = 0; v < neutral_.size(); ++v) {
    VertexPaint paint = paint_of(neutral_[v]);
    paint.occlusion = static_cast<float>(occlusion[v]) / 255;
    paint.lash = static_cast<float>(lashes[v]) / 255;
    paint_.push_back(paint);
  }
  // Inside of the mouth the mean head, whose lips are closed, is dark; how far it lies behind the lips tells more.
  for (const Part part : {Part::mouth, Part::teeth}) {
    for (const Triangle& corners : triangles(part)) {
      for (const uint16_t v : corners) paint_[v].occlusion = smoothstep(4, 10.5f, neutral_[v].z);
    }
  }
  for (int v = 0; v < kFaceVertices; ++v) {
    const Vec3 p = neutral_[static_cast<size_t>(v)];
    if (p.x > -0.15f && p.x < 0.15f && p.y > neutral_[static_cast<size_t>(forehead_)].y) forehead_ = v;
  }
}

std::span<const Triangle> FaceModel::triangles(Part part) const {
  const auto i = static_cast<size_t>(part);
  return triangles_.subspan(static_cast<size_t>(first_triangle_[i]),
                            static_cast<size_t>(first_triangle_[i + 1] - first_triangle_[i]));
}

void FaceModel::add_shape(std::span<const float> coefficients, std::vector<Vec3>& positions) const {
  const size_t numbers = neutral_.size() * 3;
  positions.assign(neutral_.begin(), neutral_.end());
  float* to = &positions[0].x;
  for (size_t m = 0; m < kModes; ++m) {
    const float factor = coefficients[m] * identity_scales_[m];
    if (m < kWideModes) {
      const int16_t* mode = identity_wide_.data() + m * numbers;
      for (size_t i = 0; i < numbers; ++i) to[i] += factor * static_cast<float>(mode[i]);
    } else {
      const int8_t* mode = identity_narrow_.data() + (m - kWideModes) * numbers;
      for (size_t i = 0; i < numbers; ++i) to[i] += factor * static_cast<float>(mode[i]);
    }
  }
}

void FaceModel::add_expression(int expression, float weight, std::vector<Vec3>& positions) const {
  const auto e = static_cast<size_t>(expression);
  const float factor = weight * expression_scales_[e];
  for (auto i = static_cast<size_t>(expression_starts_[e]); i < static_cast<size_t>(expression_starts_[e + 1]); ++i) {
    const int16_t* by = expression_movement_.data() + 3 * i;
    positions[expression_vertices_[i]] +=
        Vec3{static_cast<float>(by[0]), static_cast<float>(by[1]), static_cast<float>(by[2])} * factor;
  }
}

void vertex_normals(std::span<const Vec3> positions, std::span<const Triangle> triangles, std::vector<Vec3>& normals) {
  normals.assign(positions.size(), Vec3{});
  for (const auto& [a, b, c] : triangles) {
    const Vec3 normal = cross(positions[b] - positions[a], positions[c] - positions[a]);
    normals[a] += normal;
    normals[b] += normal;
    normals[c] += normal;
  }
  for (Vec3& normal : normals) normal = normalised(normal);
}

}  // namespace omni_id::rendered
