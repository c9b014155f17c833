// Rendered people: exact arithmetic against libm, the rasteriser against counting, and images that are the same to the bit on
// every machine. Run from the package's folder, where the face model lies.
#include <cmath>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "rendered/rasteriser.h"
#include "rendered/renderer.h"
#include "test/check.h"

using namespace omni_id;
using namespace omni_id::rendered;
using test::check;

namespace {

constexpr const char* kModel = "assets/ict_face.safetensors";

// Where the tensors lie, by the file's header.
std::map<std::string, PackedTensor> tensors_of(const MappedFile& file) {
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<uint8_t>(file.data()[i]);
  const std::string header(reinterpret_cast<const char*>(file.data()) + 8, length);
  std::map<std::string, PackedTensor> tensors;
  const std::string places = "\"data_offsets\":[";
  for (size_t at = header.find("{\"dtype\""); at != std::string::npos; at = header.find("{\"dtype\"", at + 1)) {
    const size_t close = at - 2, open = header.rfind('"', close - 1);
    std::istringstream numbers(header.substr(header.find(places, at) + places.size(), 40));
    size_t begin = 0, end = 0;
    char comma;
    numbers >> begin >> comma >> end;
    tensors[header.substr(open + 1, close - open - 1)] = {8 + length + begin, end - begin};
  }
  return tensors;
}

uint64_t fnv(uint64_t hash, const void* data, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3u;
  return hash;
}

uint64_t hash_of(const RenderedImage& image) {
  uint64_t hash = fnv(0xcbf29ce484222325u, image.pixels.data(), image.pixels.size());
  hash = fnv(hash, image.mask.data(), image.mask.size());
  hash = fnv(hash, image.landmarks.data(), sizeof image.landmarks);
  hash = fnv(hash, image.identity.data(), sizeof image.identity);
  hash = fnv(hash, image.expression.data(), sizeof image.expression);
  return fnv(hash, &image.pose, sizeof image.pose);
}

void arithmetic() {
  double worst = 0;
  for (float degrees = -180; degrees <= 180; degrees += 0.37f) {
    const SineCosine of = sine_cosine(degrees);
    const double angle = static_cast<double>(degrees) * 3.14159265358979323846 / 180;
    worst = std::max({worst, std::abs(of.sine - std::sin(angle)), std::abs(of.cosine - std::cos(angle))});
  }
  check(worst <= 1e-7, "sine and cosine are off by " + std::to_string(worst));
  double curve = 0, back = 0;
  for (float x = 0.005f; x <= 1; x += 0.001f) {
    const double srgb = x <= 0.0031308 ? 12.92 * x : 1.055 * std::pow(static_cast<double>(x), 1 / 2.4) - 0.055;
    curve = std::max(curve, std::abs(srgb_from_linear(x) - srgb));
    back = std::max(back, std::abs(static_cast<double>(linear_from_srgb(static_cast<float>(srgb))) - x));
  }
  check(curve <= 0.003, "sRGB's curve is off by " + std::to_string(curve));
  check(back <= 0.003, "its inverse is off by " + std::to_string(back));
  check(floor_to_int(-0.5f) == -1 && floor_to_int(-2) == -2 && floor_to_int(1.9f) == 1, "floor_to_int");

  Random random(7, 0, Stream::shape);
  double sum = 0, squares = 0;
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) {
    const double x = random.normal();
    sum += x;
    squares += x * x;
  }
  check(std::abs(sum / kDraws) < 4 / std::sqrt(kDraws), "the mean of normal numbers");
  check(std::abs(squares / kDraws - 1) < 4 * std::sqrt(2.0 / kDraws), "the variance of normal numbers");
}

// A square cut into triangles at random: together they cover every sample inside, none leaves a crack, backs are not drawn, the
// nearest wins.
void rasteriser() {
  constexpr int kCells = 9;
  Random random(11, 0, Stream::shape);
  std::vector<GridVertex> vertices;
  for (int y = 0; y <= kCells; ++y) {
    for (int x = 0; x <= kCells; ++x) {
      const bool edge = x == 0 || y == 0 || x == kCells || y == kCells;
      const int dx = edge ? 0 : random.below(56) - 28, dy = edge ? 0 : random.below(56) - 28;
      vertices.push_back({16 + x * 113 + dx, 16 + y * 113 + dy, 1});
    }
  }
  std::vector<Triangle> triangles, backs;
  for (int y = 0; y < kCells; ++y) {
    for (int x = 0; x < kCells; ++x) {
      const auto v = [&](int i, int j) { return static_cast<uint16_t>((y + j) * (kCells + 1) + x + i); };
      triangles.push_back({v(0, 0), v(0, 1), v(1, 0)});
      triangles.push_back({v(1, 0), v(0, 1), v(1, 1)});
    }
  }
  for (const auto& [a, b, c] : triangles) backs.push_back({a, c, b});
  DepthBuffer buffer;
  constexpr int kSide = 70;
  buffer.reset(kSide, kSide, 0);
  buffer.draw(vertices, backs, 0);
  int wrong = 0, seen = 0;
  const auto covered = [&](int x, int y) {
    const auto inside = [](int i) { return i * 16 + 8 >= 16 && i * 16 + 8 <= 16 + kCells * 113; };
    return inside(x) && inside(y);
  };
  const auto count = [&] {
    wrong = seen = 0;
    for (int y = 0; y < kSide; ++y) {
      for (int x = 0; x < kSide; ++x) {
        const bool drawn = buffer.id(x, y) != DepthBuffer::kNothing;
        seen += drawn ? 1 : 0;
        wrong += drawn != covered(x, y) ? 1 : 0;
      }
    }
  };
  count();
  check(seen == 0, "backs are drawn");
  buffer.draw(vertices, triangles, 0);
  count();
  check(wrong == 0 && seen > 3000, std::to_string(wrong) + " samples are wrong");

  for (GridVertex& vertex : vertices) vertex.nearness = 0.5f;
  buffer.draw(vertices, triangles, 1000);
  int behind = 0;
  for (int y = 0; y < kSide; ++y) {
    for (int x = 0; x < kSide; ++x) behind += buffer.id(x, y) >= 1000 ? 1 : 0;
  }
  check(behind == 0, "what is behind is drawn");

  const GridVertex a{0, 0, 1}, b{160, 0, 1}, c{0, 160, 1};
  const Shares shares = shares_at(a, b, c, 2, 5);
  check(shares.second == 0.25f && shares.third == 0.55f, "shares of a sample");
}

void images() {
  const auto file = std::make_shared<const MappedFile>(kModel);
  const auto tensors = tensors_of(*file);
  check(tensors.size() == 15, "tensors in the file's header");
  const Renderer renderer(FaceModel(file, tensors));
  struct Pin {
    uint64_t person, view;
    int size;
    bool glasses;
    uint64_t hash;
  };
  // Every machine must give these. They change when what is drawn changes, and only then: rendererVersion in
  // src/data/rendered.ts must be raised with them, or pictures that are kept on disk are taken for the new ones.
  constexpr Pin kPins[] = {
      {0, 0, 112, false, 0x323b745d56ffd515},
      {4, 1, 64, true, 0x24a666b1f5b70533},
      {900000, 7, 97, false, 0x9b35375cd4345eb7},
  };
  for (const Pin& pin : kPins) {
    RenderRequest request;
    request.shape_seed = request.colouring_seed = request.view_seed = pin.person;
    request.view_number = pin.view;
    request.size = pin.size;
    request.view.glasses = pin.glasses;
    const uint64_t hash = hash_of(renderer.render(request));
    std::ostringstream text;
    text << "person " << pin.person << " in view " << pin.view << " has the hash 0x" << std::hex << hash;
    check(hash == pin.hash, text.str());
  }

  const auto refused = [&](const std::function<void(std::map<std::string, PackedTensor>&)>& damage) {
    auto damaged = tensors;
    damage(damaged);
    return test::code_of<EngineError>([&] { FaceModel(file, damaged); });
  };
  check(refused([](auto& t) { t.erase("neutral"); }) == kWeights, "a tensor that is missing");
  check(refused([](auto& t) { t["identity_narrow"].bytes -= 3; }) == kWeights, "a tensor of another size");
  check(refused([&](auto& t) { t["lashes"].offset = file->size() - 5; }) == kWeights, "a tensor beyond the end");
  check(refused([](auto& t) { t["triangles"].offset = t["identity_wide"].offset; }) == kWeights, "vertices that are not there");
  check(refused([](auto& t) { t["landmarks68"].offset = t["neutral"].offset; }) == kWeights, "landmarks that are not there");
}

}  // namespace

int main() {
  arithmetic();
  rasteriser();
  images();
  return test::finish();
}
