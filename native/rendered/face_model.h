#pragma once

#include <array>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "rendered/exact.h"

namespace omni_id::rendered {

inline constexpr int kModes = 60;
inline constexpr int kExpressions = 53;
inline constexpr int kLandmarks = 68;
// Vertices up to here are the narrow face: forehead to chin, temple to temple. It is what a face mask shows.
inline constexpr int kFaceVertices = 6706;

// What the mesh consists of, in the order of its triangles. `sockets` is the skin behind the lids.
enum class Part { skin, mouth, sockets, teeth, eyes };
inline constexpr int kParts = 5;

using Triangle = std::array<uint16_t, 3>;

// A tensor of the packed file.
struct PackedTensor {
  size_t offset = 0, bytes = 0;
};

// What painting needs to know of a vertex; all of it follows from the mean head.
struct VertexPaint {
  float scalp;    // centimetres above the usual hairline, negative below
  float curtain;  // the same where long hair hangs down
  float beard, moustache, goatee;
  float occlusion;  // 0: sees nothing of its surroundings, 1: all
  float lash;       // 1 at the roots of the lashes
};

// The packed face model (scripts/pack-face-model.mjs): mean head, principal components of people, expressions.
class FaceModel {
 public:
  // Throws ERR_WEIGHTS when a tensor is missing, has another size, or points outside of the mesh.
  FaceModel(std::shared_ptr<const MappedFile> file, const std::map<std::string, PackedTensor>& tensors);

  int vertices() const { return static_cast<int>(neutral_.size()); }
  std::span<const Vec3> neutral() const { return neutral_; }
  std::span<const Triangle> triangles() const { return triangles_; }
  std::span<const Triangle> triangles(Part part) const;
  // The first triangle of a part; that of the part after the last is the number of triangles.
  int first_triangle(int part) const { return first_triangle_[static_cast<size_t>(part)]; }
  std::span<const VertexPaint> paint() const { return paint_; }
  std::span<const int32_t> landmarks() const { return landmarks_; }
  // Where the forehead ends, in the middle.
  int forehead() const { return forehead_; }
  const Vec3& eye_centre(int side) const { return eye_centres_[static_cast<size_t>(side)]; }

  // positions = neutral + Σ coefficients[m] · mode m
  void add_shape(std::span<const float> coefficients, std::vector<Vec3>& positions) const;
  // positions += weight · expression
  void add_expression(int expression, float weight, std::vector<Vec3>& positions) const;

 private:
  template <typename Element>
  std::span<const Element> tensor(const std::map<std::string, PackedTensor>& tensors, const char* name, size_t count) const;
  void paint_vertices(std::span<const uint8_t> occlusion, std::span<const uint8_t> lashes);

  std::shared_ptr<const MappedFile> file_;
  std::span<const Vec3> neutral_;
  std::span<const Triangle> triangles_;
  std::array<int, kParts + 1> first_triangle_{};
  std::span<const float> identity_scales_, expression_scales_;
  std::span<const int16_t> identity_wide_, expression_movement_;
  std::span<const int8_t> identity_narrow_;
  std::span<const int32_t> expression_starts_, landmarks_;
  std::span<const uint16_t> expression_vertices_;
  std::span<const Vec3> eye_centres_;
  std::vector<VertexPaint> paint_;
  int forehead_ = 0;
};

// Normals of all vertices, weighted by area; of unit length.
void vertex_normals(std::span<const Vec3> positions, std::span<const Triangle> triangles, std::vector<Vec3>& normals);

}  // namespace omni_id::rendered
