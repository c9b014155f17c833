#pragma once

#include <cmath>
#include <cstdint>

// Arithmetic of the renderer. Only operations that IEEE 754 rounds exactly (+, −, ×, ÷, square root), compiled without
// contraction, so that an image is the same to the bit on every machine: the functions of libm differ between systems.
namespace omni_id::rendered {

struct Vec3 {
  float x = 0, y = 0, z = 0;
};

inline Vec3 operator+(Vec3 a, Vec3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
inline Vec3 operator-(Vec3 a, Vec3 b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
inline Vec3 operator*(Vec3 a, Vec3 b) { return {a.x * b.x, a.y * b.y, a.z * b.z}; }
inline Vec3 operator*(Vec3 a, float s) { return {a.x * s, a.y * s, a.z * s}; }
inline Vec3& operator+=(Vec3& a, Vec3 b) { return a = a + b; }
inline float dot(Vec3 a, Vec3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
inline Vec3 cross(Vec3 a, Vec3 b) { return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x}; }
inline float length(Vec3 a) { return std::sqrt(dot(a, a)); }
// The zero vector stays what it is.
inline Vec3 normalised(Vec3 a) {
  const float squared = dot(a, a);
  return squared > 0 ? a * (1 / std::sqrt(squared)) : a;
}

inline float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }
inline float saturate(float x) { return clamp(x, 0, 1); }
inline float mix(float a, float b, float t) { return a + (b - a) * t; }
inline Vec3 mix(Vec3 a, Vec3 b, float t) { return a + (b - a) * t; }
// 0 at `from`, 1 at `to` (which may lie below `from`), smooth between.
inline float smoothstep(float from, float to, float x) {
  const float t = saturate((x - from) / (to - from));
  return t * t * (3 - 2 * t);
}
// A hump of height 1 and width ±1, zero outside: in place of a Gaussian.
inline float hump(float x) {
  const float t = 1 - x * x;
  return t > 0 ? t * t : 0;
}
inline float hump(Vec3 p, Vec3 centre, Vec3 radius) {
  const Vec3 d = p - centre;
  const Vec3 r{d.x / radius.x, d.y / radius.y, d.z / radius.z};
  const float t = 1 - dot(r, r);
  return t > 0 ? t * t : 0;
}
inline int floor_to_int(float x) {
  const int whole = static_cast<int>(x);
  return static_cast<float>(whole) > x ? whole - 1 : whole;
}

struct SineCosine {
  float sine, cosine;
};
// Of an angle in degrees within ±180, to float precision: Taylor series around 0 of a quarter of the angle, doubled twice.
inline SineCosine sine_cosine(float degrees) {
  const double a = static_cast<double>(degrees) * (3.14159265358979323846 / 720);
  const double q = a * a;
  double s = a * (1 - q / 6 * (1 - q / 20 * (1 - q / 42 * (1 - q / 72 * (1 - q / 110)))));
  double c = 1 - q / 2 * (1 - q / 12 * (1 - q / 30 * (1 - q / 56 * (1 - q / 90))));
  for (int i = 0; i < 2; ++i) {
    const double twice = 2 * s * c;
    c = 1 - 2 * s * s;
    s = twice;
  }
  return {static_cast<float>(s), static_cast<float>(c)};
}

// Linear light to sRGB's curve, by square roots: within 0.003 of it on [0, 1].
inline float srgb_from_linear(float x) {
  const float a = std::sqrt(x), b = std::sqrt(a), c = std::sqrt(b);
  return saturate(0.585122381f * a + 0.783140355f * b - 0.368262736f * c);
}
// The other way, by a polynomial.
inline float linear_from_srgb(float x) { return x * (x * (x * 0.305306011f + 0.682171111f) + 0.012522878f); }
// A colour as it is written down, 0 to 255, in linear light.
inline Vec3 srgb(float red, float green, float blue) {
  return {linear_from_srgb(red / 255), linear_from_srgb(green / 255), linear_from_srgb(blue / 255)};
}

}  // namespace omni_id::rendered
