#include "rendered/view.h"

#include <algorithm>

namespace omni_id::rendered {

namespace {

// Expressions by their place in the packed file; a group moves together.
enum : int {
  kBrowDown = 0,
  kBrowInnerUp = 2,
  kBrowOuterUp = 4,
  kCheekPuff = 6,
  kCheekSquint = 8,
  kEyeBlink = 10,
  kEyeLookDown = 12,
  kEyeLookIn = 14,
  kEyeLookOut = 16,
  kEyeLookUp = 18,
  kEyeSquint = 20,
  kEyeWide = 22,
  kJawForward = 24,
  kJawLeft = 25,
  kJawOpen = 26,
  kJawRight = 27,
  kMouthDimple = 29,
  kMouthFrown = 31,
  kMouthFunnel = 33,
  kMouthLeft = 34,
  kMouthLowerDown = 35,
  kMouthPress = 37,
  kMouthPucker = 39,
  kMouthRight = 40,
  kMouthShrugLower = 43,
  kMouthSmile = 45,
  kMouthStretch = 47,
  kMouthUpperUp = 49,
  kNoseSneer = 51
};  // clang-format off

struct Group {
  int first, count;  // count 2: left and right
  float most;
};

constexpr Group kGroups[] = {
    {kBrowDown, 2, 1}, {kBrowInnerUp, 2, 1}, {kBrowOuterUp, 2, 1}, {kCheekPuff, 2, 0.8f}, {kCheekSquint, 2, 1},
    {kEyeSquint, 2, 0.9f}, {kEyeWide, 2, 0.9f}, {kJawForward, 1, 0.6f}, {kJawLeft, 1, 0.6f}, {kJawOpen, 1, 0.65f}, {kJawRight, 1, 0.6f},
    {kMouthDimple, 2, 0.9f}, {kMouthFrown, 2, 0.9f}, {kMouthFunnel, 1, 0.7f}, {kMouthLeft, 1, 0.6f}, {kMouthLowerDown, 2, 0.7f},
    {kMouthPress, 2, 0.8f}, {kMouthPucker, 1, 0.8f}, {kMouthRight, 1, 0.6f}, {kMouthShrugLower, 1, 0.7f}, {kMouthSmile, 2, 1},
    {kMouthStretch, 2, 0.7f}, {kMouthUpperUp, 2, 0.7f}, {kNoseSneer, 2, 0.8f},
};
// clang-format on

void set(View& view, int first, int count, float weight, Random& random) {
  for (int i = 0; i < count; ++i) {
    const float side = count == 2 ? random.between(0.85f, 1.15f) : 1;
    view.expression[static_cast<size_t>(first + i)] = saturate(weight * side);
  }
}

void draw_expression(Random& random, View& view) {
  const int groups = random.below(5);
  for (int i = 0; i < groups; ++i) {
    const Group& group = kGroups[random.below(static_cast<int>(std::size(kGroups)))];
    set(view, group.first, group.count, random.uniform() * group.most, random);
  }
  // Smiles are what people show cameras.
  if (random.chance(0.35f)) set(view, kMouthSmile, 2, random.between(0.2f, 1), random);
  if (random.chance(0.12f)) set(view, kEyeBlink, 2, random.between(0.3f, 1), random);
  view.gaze_x = random.normal(0.35f, 1);
  view.gaze_y = random.normal(0.25f, 0.8f);
  const auto at = [&](int e) -> float& { return view.expression[static_cast<size_t>(e)]; };
  // The lids follow the eyes; `_L` is the person's left, at the image's right.
  const float right = std::max(0.0f, view.gaze_x), left = std::max(0.0f, -view.gaze_x);
  at(kEyeLookOut) = at(kEyeLookIn + 1) = right;
  at(kEyeLookIn) = at(kEyeLookOut + 1) = left;
  at(kEyeLookUp) = at(kEyeLookUp + 1) = std::max(0.0f, view.gaze_y);
  at(kEyeLookDown) = at(kEyeLookDown + 1) = std::max(0.0f, -view.gaze_y);
}

// Somewhere within these angles. Drawn one after the other: the order in which arguments are evaluated is the compiler's.
Vec3 direction(Random& random, float left, float right, float lowest, float highest) {
  const SineCosine a = sine_cosine(random.between(left, right)), e = sine_cosine(random.between(lowest, highest));
  return {a.sine * e.cosine, e.sine, a.cosine * e.cosine};
}

// Lamp, daylight or shade: from warm to cool.
Vec3 tint(Random& random) {
  const float t = random.between(-1, 1);
  return {1 + 0.22f * t, 1 + 0.02f * t, 1 - 0.25f * t};
}

void draw_light(Random& random, View& view) {
  const Vec3 around = tint(random), reflected = tint(random);
  const float ambient = random.between(0.22f, 0.7f), reflection = random.between(0.25f, 0.8f);
  view.sky = around * ambient;
  view.ground = around * reflected * (ambient * reflection);
  const auto light = [&](Vec3 towards, float weakest, float strongest) {
    const Vec3 colour = tint(random);
    return Light{towards, colour * random.between(weakest, strongest)};
  };
  view.key = light(direction(random, -75, 75, -5, 65), 0.45f, 1.35f);
  view.fill = light(direction(random, -100, 100, -20, 60), 0, 0.45f);
  const float behind = random.chance(0.5f) ? 105.0f : -150.0f;
  view.rim = light(direction(random, behind, behind + 45, 0, 50), 0, 0.9f);
  if (random.chance(0.6f)) view.rim.colour = {};
  // Cameras expose for what there is: how bright the picture is varies less than the lamps do.
  const float total = ambient + 0.7f * view.key.colour.y + 0.45f * view.fill.colour.y;
  view.exposure = random.between(0.75f, 1.25f) * 1.15f / total;
}

// What is behind people: mostly dull, sometimes not.
Vec3 dull_colour(Random& random) {
  const float lightness = random.uniform();
  const float grey = 0.015f + 0.75f * lightness * lightness;
  const float much = random.chance(0.2f) ? 0.75f : 0.25f;
  return Vec3{1 + random.between(-much, much), 1 + random.between(-much, much), 1 + random.between(-much, much)} * grey;
}

void draw_surroundings(Random& random, View& view, const ViewRequest& request) {
  for (Vec3& colour : view.background) colour = dull_colour(random);
  view.background_origin = random.vector(-500, 500);
  view.background_slope = {random.between(-1.2f, 1.2f), random.between(-1.2f, 1.2f), random.between(0.6f, 4)};
  view.cloth = dull_colour(random);
  view.collar = random.between(-14.5f, -11.5f);
  const bool glasses = random.chance(0.14f);
  view.glasses = request.glasses.value_or(glasses);
  view.glasses_colour = random.chance(0.7f) ? Vec3{0.02f, 0.018f, 0.016f} : dull_colour(random);
  view.glasses_width = random.between(2.25f, 2.75f);
  view.glasses_height = random.between(1.5f, 2.2f);
  view.glasses_thickness = random.between(0.1f, 0.24f);
  view.glasses_roundness = random.uniform();
  view.grain = random.chance(0.5f) ? random.between(0, 0.008f) : random.between(0, 0.02f);
}

}  // namespace

View draw_view(uint64_t seed, uint64_t number, const ViewRequest& request) {
  View view{};
  Random pose(seed, number, Stream::pose);
  view.pose.yaw = pose.normal(28, 65) * request.pose_spread;
  view.pose.pitch = pose.normal(12, 28) * request.pose_spread;
  view.pose.roll = pose.normal(6, 15) * request.pose_spread;
  view.distance = pose.between(45, 110);
  view.zoom = pose.between(0.94f, 1.06f);
  view.shift_x = pose.between(-0.035f, 0.035f);
  view.shift_y = pose.between(-0.035f, 0.035f);
  if (request.pose) view.pose = *request.pose;
  if (!request.jitter) {
    view.zoom = 1;
    view.shift_x = view.shift_y = 0;
  }
  Random expression(seed, number, Stream::expression);
  view.pupil = expression.between(0.3f, 0.5f);
  if (!request.neutral_expression) draw_expression(expression, view);
  Random light(seed, number, Stream::light);
  draw_light(light, view);
  Random surroundings(seed, number, Stream::surroundings);
  draw_surroundings(surroundings, view, request);
  return view;
}

}  // namespace omni_id::rendered
