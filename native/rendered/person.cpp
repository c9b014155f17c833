#include "rendered/person.h"

#include <algorithm>

#include "rendered/lattice.h"

namespace omni_id::rendered {

namespace {

// Skin from light to dark; a person lies between two neighbours.
const Vec3 kSkins[] = {srgb(238, 208, 194), srgb(226, 188, 170), srgb(208, 165, 143), srgb(184, 138, 114),
                       srgb(150, 107, 85),  srgb(110, 76, 61),   srgb(76, 53, 44)};
const Vec3 kHairs[] = {srgb(22, 18, 17),   srgb(45, 31, 24),    srgb(78, 52, 35),  srgb(115, 80, 50),
                       srgb(168, 128, 80), srgb(205, 172, 120), srgb(140, 66, 34), srgb(150, 148, 145)};
const Vec3 kIrises[] = {srgb(48, 30, 20),  srgb(84, 52, 28),   srgb(116, 86, 44),
                        srgb(92, 108, 62), srgb(88, 120, 150), srgb(120, 134, 140)};

Hair draw_hair(Random& random) {
  const float u = random.uniform();
  return u < 0.08f   ? Hair::bald
         : u < 0.2f  ? Hair::shaved
         : u < 0.48f ? Hair::cropped
         : u < 0.74f ? Hair::full
                     : Hair::long_hair;
}

void draw_beard(Random& random, Colouring& colouring) {
  const float style = random.uniform();
  const float density = random.between(0.35f, 0.95f);
  colouring.beard_thickness = random.between(0, 0.35f) * density;
  if (style < 0.58f) {
    // None; half of these people have a faint shadow of one.
    const float shadow = random.chance(0.4f) ? random.between(0, 0.22f) : 0;
    colouring.beard = colouring.moustache = colouring.goatee = shadow;
    colouring.beard_thickness = 0;
  } else if (style < 0.78f) {
    colouring.beard = colouring.moustache = colouring.goatee = density;
  } else if (style < 0.9f) {
    colouring.moustache = colouring.goatee = density;
  } else {
    colouring.moustache = density;
  }
}

}  // namespace

Colouring draw_colouring(uint64_t seed) {
  Random random(seed, 0, Stream::colouring);
  Colouring c{};
  // The darker half of the scale is as frequent as the lighter one.
  const float tone = random.uniform() * 5.999f;
  const int step = static_cast<int>(tone);
  c.skin = mix(kSkins[step], kSkins[step + 1], tone - static_cast<float>(step));
  const float warm = random.normal(0.035f, 0.1f), light = 1 + random.normal(0.06f, 0.15f);
  const float yellow = random.between(-0.04f, 0.06f);
  c.skin = c.skin * Vec3{light * (1 + warm), light, light * (1 - warm - yellow)};
  c.redness = random.between(0, 0.9f);
  c.under_eyes = random.between(0, 0.35f);
  c.blotches = random.between(0.03f, 0.16f);
  c.freckles = tone < 3 && random.chance(0.25f) ? random.between(0.3f, 0.9f) : 0;
  c.gloss = random.between(0.25f, 1);

  const Vec3 pale = c.skin * Vec3{0.86f, 0.55f, 0.55f}, red = srgb(165, 60, 65);
  c.lips = mix(pale, red, random.chance(0.25f) ? random.between(0.3f, 0.85f) : random.between(0, 0.2f));
  c.lip_strength = random.between(0.6f, 1);

  // Dark skin and dark hair go together most of the time.
  const int darkest = tone > 3.5f && random.chance(0.95f) ? 2 : 8;
  c.hair_colour = kHairs[random.below(darkest)];
  c.hair_colour = c.hair_colour * random.between(0.8f, 1.25f);
  c.brow_colour = c.hair_colour * random.between(0.5f, 1);
  c.brow_width = random.between(0.22f, 0.52f);
  c.brow_density = random.between(0.45f, 0.98f);
  c.brow_lift = random.normal(0.14f, 0.3f) - 0.12f;
  c.brow_arch = random.normal(0.16f, 0.35f);
  c.brow_length = random.between(5.2f, 6.3f);

  c.hair = draw_hair(random);
  c.hairline = random.normal(0.45f, 1);
  c.receding = random.chance(0.3f) ? random.between(0, 2.2f) : random.between(-0.4f, 0.3f);
  c.wave = random.between(0, 1);
  const float thick = random.uniform();
  switch (c.hair) {
    case Hair::bald:
      c.hair_thickness = 0;
      break;
    case Hair::shaved:
      c.hair_thickness = 0.08f;
      break;
    case Hair::cropped:
      c.hair_thickness = mix(0.3f, 0.9f, thick);
      break;
    case Hair::full:
      c.hair_thickness = mix(1, 2.4f, thick);
      break;
    case Hair::long_hair:
      c.hair_thickness = mix(0.7f, 1.8f, thick);
      break;
  }
  c.beard_colour = mix(c.hair_colour, c.brow_colour, random.uniform());
  c.beard_colour = c.beard_colour * random.between(0.8f, 1.15f);
  draw_beard(random, c);
  if (std::max(c.moustache, c.beard) > 0.25f) c.lips = mix(c.skin, pale, 0.8f);  // no lipstick

  const int darkest_iris = tone > 3.5f && random.chance(0.95f) ? 2 : 6;
  c.iris = kIrises[random.below(darkest_iris)];
  c.iris = c.iris * random.between(0.75f, 1.3f);
  c.iris_detail = random.uniform();
  for (Mole& mole : c.moles) {
    const bool there = random.chance(0.4f);
    mole.x = random.between(-6, 6);
    mole.y = random.between(-6.5f, 8.5f);
    mole.radius = there ? random.between(0.1f, 0.22f) : 0;
    mole.darkness = random.between(0.35f, 0.8f);
  }
  c.noise_origin = random.vector(-200, 200);
  return c;
}

float scalp_height(const Colouring& c, Vec3 p, const VertexPaint& paint) {
  if (c.hair == Hair::bald) return -10;
  const float side = p.x < 0 ? -p.x : p.x;
  const float front = smoothstep(4, 8, p.z);
  // Receding hairlines leave the middle and the sides, and open above the temples.
  const float shift = c.hairline + c.receding * hump((side - 3.8f) / 3.4f);
  const float above = paint.scalp - shift * front;
  return c.hair == Hair::long_hair ? std::max(above, paint.curtain - shift * front) : above;
}

Person make_person(const FaceModel& model, uint64_t shape_seed, uint64_t colouring_seed) {
  Person person;
  Random random(shape_seed, 0, Stream::shape);
  for (float& coefficient : person.coefficients) coefficient = random.normal();
  model.add_shape(person.coefficients, person.positions);
  person.colouring = draw_colouring(colouring_seed);

  const Colouring& c = person.colouring;
  std::vector<Vec3> normals;
  vertex_normals(person.positions, model.triangles(), normals);
  person.cover.assign(person.positions.size(), Vec3{});
  const Lattice& lattice = Lattice::shared();
  for (const Triangle& corners : model.triangles(Part::skin)) {
    for (const uint16_t v : corners) {
      const Vec3 p = model.neutral()[v];
      const VertexPaint& paint = model.paint()[v];
      const float above = scalp_height(c, p, paint);
      Vec3 cover{};
      if (above > 0) {
        const float bumps = 1 + 0.55f * c.wave * lattice.at(p * 0.45f + c.noise_origin);
        const float top = mix(0.7f, 1, smoothstep(2, 11, p.y));
        cover = normals[v] * (c.hair_thickness * smoothstep(-0.2f, 1.8f, above) * bumps * top);
      }
      if (c.hair == Hair::long_hair && paint.curtain > 0 && p.y < 8) {
        // Hair hangs from the widest part of the head: ears and neck move out to an upright cylinder around it.
        const Vec3 axis{0, p.y, -1.5f}, from = p - axis;
        const float wide = (8.3f + c.hair_thickness) * (1 + 0.05f * c.wave * lattice.at(p * 0.6f + c.noise_origin));
        const float scale = wide / std::max(1.0f, std::sqrt(from.x * from.x + 0.8f * from.z * from.z));
        const Vec3 hanging = Vec3{from.x, 0, from.z} * (scale - 1);
        cover = mix(cover, hanging, smoothstep(0, 1.5f, paint.curtain) * smoothstep(8, 5, p.y));
      }
      const float beard = std::max(std::max(paint.beard * c.beard, paint.moustache * c.moustache), paint.goatee * c.goatee);
      person.cover[v] = cover + normals[v] * (c.beard_thickness * smoothstep(0.2f, 0.9f, beard));
    }
  }
  return person;
}

}  // namespace omni_id::rendered
