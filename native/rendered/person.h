#pragma once

#include <array>
#include <vector>

#include "rendered/face_model.h"
#include "rendered/random.h"

namespace omni_id::rendered {

enum class Hair { bald, shaved, cropped, full, long_hair };

// A mole on the front of the mean face.
struct Mole {
  float x = 0, y = 0, radius = 0, darkness = 0;
};

// Everything about a person's looks that is not shape. Colours are in linear light.
struct Colouring {
  Vec3 skin;
  float redness, under_eyes, blotches, freckles, gloss;
  Vec3 lips;
  float lip_strength;
  Vec3 brow_colour;
  float brow_width, brow_density, brow_lift, brow_arch, brow_length;
  Vec3 hair_colour;
  Hair hair;
  float hair_thickness, hairline, receding, wave;
  Vec3 beard_colour;
  float beard, moustache, goatee;  // how dense each is
  float beard_thickness;           // cm
  Vec3 iris;
  float iris_detail;
  std::array<Mole, 5> moles;
  Vec3 noise_origin;  // where in the lattice of noise this person's skin lies
};

// A person: shape and colouring, drawn from seeds of their own.
struct Person {
  std::array<float, kModes> coefficients{};
  Colouring colouring{};
  std::vector<Vec3> positions;  // of all vertices, without expression
  std::vector<Vec3> cover;      // how far hair and beard lift the surface
};

// How far above the hairline of this person a vertex lies; negative where no hair grows.
float scalp_height(const Colouring& colouring, Vec3 neutral, const VertexPaint& paint);

Colouring draw_colouring(uint64_t seed);
Person make_person(const FaceModel& model, uint64_t shape_seed, uint64_t colouring_seed);

}  // namespace omni_id::rendered
