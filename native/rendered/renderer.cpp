#include "rendered/renderer.h"

#include <algorithm>

#include "rendered/lighting.h"

namespace omni_id::rendered {

namespace {

constexpr size_t kKnownPeople = 32;
constexpr float kWhite = 1.3f;  // light from where on a pixel is white

// Memory that a thread uses for one image after another.
struct Workspace {
  Scene scene;
  DepthBuffer buffer;
  ShadowMap shadow;
};

struct Sample {
  Vec3 colour;
  bool face;
};

// Colours the samples of one image.
class Shader {
 public:
  Shader(const FaceModel& model, const Features& features, const Person& person, const View& view, const Workspace& work,
         int size)
      : model_(model),
        view_(view),
        scene_(work.scene),
        buffer_(work.buffer),
        shadow_(work.shadow),
        paint_(model, features, person, view),
        half_(0.5f * static_cast<float>(size)) {}

  // What is seen at sample (x, y), where there is something.
  Sample at(int x, int y) const {
    const int32_t id = buffer_.id(x, y);
    const int glasses = id - model_.first_triangle(kParts);
    const bool is_head = glasses < 0;
    const Triangle& corners =
        is_head ? model_.triangles()[static_cast<size_t>(id)] : scene_.glasses.triangles[static_cast<size_t>(glasses)];
    const auto& grid = is_head ? scene_.grid : scene_.glasses_grid;
    const GridVertex &a = grid[corners[0]], &b = grid[corners[1]], &c = grid[corners[2]];
    // Shares on the grid, corrected for perspective.
    const Shares shares = shares_at(a, b, c, x, y);
    const float wa = (1 - shares.second - shares.third) * a.nearness, wb = shares.second * b.nearness,
                wc = shares.third * c.nearness;
    const float nearness = wa + wb + wc, per = 1 / nearness;
    const float sa = wa * per, sb = wb * per, sc = wc * per;
    const auto blend = [&](Vec3 p, Vec3 q, Vec3 r) { return p * sa + q * sb + r * sc; };

    const float px = (static_cast<float>(x) + 0.5f) / kSamples, py = (static_cast<float>(y) + 0.5f) / kSamples;
    const Vec3 ray{(px - half_) / scene_.scale + scene_.centre_x, (half_ - py) / scene_.scale + scene_.centre_y, -1};
    const Vec3 position = ray * per, to_camera = normalised(ray * -1.0f);
    const auto& normals = is_head ? scene_.normals : scene_.glasses.normals;
    const Vec3 normal = normalised(blend(normals[corners[0]], normals[corners[1]], normals[corners[2]]));
    if (!is_head) return {lit(paint_.glasses(), view_, normal, to_camera, 1, 1), false};

    const Vec3 p = blend(model_.neutral()[corners[0]], model_.neutral()[corners[1]], model_.neutral()[corners[2]]);
    const VertexPaint &u = model_.paint()[corners[0]], &v = model_.paint()[corners[1]], &w = model_.paint()[corners[2]];
    const auto value = [&](float VertexPaint::*field) { return u.*field * sa + v.*field * sb + w.*field * sc; };
    const float occlusion = value(&VertexPaint::occlusion);
    bool face = true;
    Surface surface;
    if (id < model_.first_triangle(1)) {
      const VertexPaint paint{value(&VertexPaint::scalp),     value(&VertexPaint::curtain), value(&VertexPaint::beard),
                              value(&VertexPaint::moustache), value(&VertexPaint::goatee),  occlusion,
                              value(&VertexPaint::lash)};
      surface = paint_.skin(p, paint);
      face = std::max({corners[0], corners[1], corners[2]}) < kFaceVertices && surface.cover < 0.5f;
    } else if (id < model_.first_triangle(2)) {
      surface = paint_.mouth();
    } else if (id < model_.first_triangle(3)) {
      surface = paint_.socket();
    } else if (id < model_.first_triangle(4)) {
      surface = paint_.teeth(p);
    } else {
      surface = paint_.eye(p);
    }
    return {lit(surface, view_, normal, to_camera, occlusion, shadow_.light_at(position, normal)), face};
  }

 private:
  const FaceModel& model_;
  const View& view_;
  const Scene& scene_;
  const DepthBuffer& buffer_;
  const ShadowMap& shadow_;
  Paint paint_;
  float half_;
};

// Bright light is compressed as film does it, so that lit skin keeps its colour.
uint8_t byte_of(float linear, float grain) {
  const float light = std::max(0.0f, linear), film = 1.3f * light / (1 + 0.5f * light);
  return static_cast<uint8_t>(saturate(srgb_from_linear(film) + grain) * 255 + 0.5f);
}

// Sums of two bytes each, about normal: a sensor's noise.
class Grain {
 public:
  Grain(uint64_t seed, uint64_t number, float strength) : random_(seed, number, Stream::noise), strength_(strength / 74) {}
  float next() {
    const uint32_t bits = random_.bits();
    const auto byte = [&](int i) { return static_cast<int>((bits >> (8 * i)) & 255); };
    return strength_ * static_cast<float>(byte(0) + byte(1) + byte(2) + byte(3) - 510) * 0.5f;
  }

 private:
  Random random_;
  float strength_;
};

}  // namespace

std::shared_ptr<const Person> Renderer::person(uint64_t shape_seed, uint64_t colouring_seed) const {
  {
    std::lock_guard lock(mutex_);
    for (auto it = known_.begin(); it != known_.end(); ++it) {
      if (it->shape_seed != shape_seed || it->colouring_seed != colouring_seed) continue;
      known_.splice(known_.begin(), known_, it);
      return it->person;
    }
  }
  // Two threads may make the same person at once; the copies are equal.
  auto made = std::make_shared<const Person>(make_person(model_, shape_seed, colouring_seed));
  std::lock_guard lock(mutex_);
  known_.push_front({shape_seed, colouring_seed, made});
  if (known_.size() > kKnownPeople) known_.pop_back();
  return made;
}

RenderedImage Renderer::render(const RenderRequest& request) const {
  static thread_local Workspace work;
  const std::shared_ptr<const Person> person = this->person(request.shape_seed, request.colouring_seed);
  const View view = draw_view(request.view_seed, request.view_number, request.view);
  const int size = request.size, samples = size * kSamples;
  Scene& scene = work.scene;
  pose_scene(model_, *person, view, size, request.crop, scene);

  work.buffer.reset(samples, samples, 0);
  for (const Part part : {Part::skin, Part::sockets, Part::eyes}) {
    work.buffer.draw(scene.grid, model_.triangles(part), model_.first_triangle(static_cast<int>(part)));
  }
  if (scene.mouth_open) {
    for (const Part part : {Part::mouth, Part::teeth}) {
      work.buffer.draw(scene.grid, model_.triangles(part), model_.first_triangle(static_cast<int>(part)));
    }
  }
  work.buffer.draw(scene.glasses_grid, scene.glasses.triangles, model_.first_triangle(kParts));
  work.shadow.draw(model_, scene, view.key.direction, Vec3{0, 0, -view.distance});

  RenderedImage image;
  image.pixels.resize(static_cast<size_t>(size) * static_cast<size_t>(size) * 3);
  image.mask.resize(static_cast<size_t>(size) * static_cast<size_t>(size));
  image.pose = view.pose;
  image.landmarks = scene.landmarks;
  image.identity = person->coefficients;
  image.expression = view.expression;

  const Shader shader(model_, features_, *person, view, work, size);
  Grain grain(request.view_seed, request.view_number, view.grain);
  const float per_pixel = 1 / static_cast<float>(size);
  size_t at = 0;
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x, ++at) {
      Vec3 sum;
      int face = 0, empty = 0;
      for (int j = 0; j < kSamples; ++j) {
        for (int i = 0; i < kSamples; ++i) {
          const int u = x * kSamples + i, v = y * kSamples + j;
          if (work.buffer.id(u, v) == DepthBuffer::kNothing) {
            ++empty;
            continue;
          }
          const Sample sample = shader.at(u, v);
          // What is overexposed must not outweigh its neighbours.
          sum += Vec3{std::min(kWhite, sample.colour.x), std::min(kWhite, sample.colour.y), std::min(kWhite, sample.colour.z)};
          face += sample.face ? 1 : 0;
        }
      }
      if (empty > 0) {
        const Vec3 behind =
            background_at(view, (static_cast<float>(x) + 0.5f) * per_pixel, (static_cast<float>(y) + 0.5f) * per_pixel);
        sum += behind * static_cast<float>(empty);
      }
      const Vec3 colour = sum * (1.0f / (kSamples * kSamples));
      image.pixels[3 * at] = byte_of(colour.x, grain.next());
      image.pixels[3 * at + 1] = byte_of(colour.y, grain.next());
      image.pixels[3 * at + 2] = byte_of(colour.z, grain.next());
      image.mask[at] = 2 * face > kSamples * kSamples ? 255 : 0;
    }
  }
  return image;
}

}  // namespace omni_id::rendered
