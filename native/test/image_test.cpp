// Preprocessing as a device offers it: what it must be refused, where it writes, and that it is the CPU kernels' result (which
// test/golden-preprocess.test.ts compares with Pillow's).
#include <cstring>
#include <limits>

#include "base/error.h"
#include "cpu/device.h"
#include "cpu/isa.h"
#include "test/check.h"

using namespace omni_id;
using test::check;

namespace {

void test_images() {
  const auto code = [](int64_t width, int64_t height, size_t bytes) {
    return test::code_of<EngineError>([&] { check_image({nullptr, width, height}, bytes); });
  };
  check(code(5, 7, 105).empty(), "an image of its size");
  check(code(26754, 26754, size_t{26754} * 26754 * 3).empty(), "an image of 2^31 bytes");
  const int64_t huge = std::numeric_limits<int64_t>::max();
  for (const auto& [width, height, bytes] : {std::tuple<int64_t, int64_t, size_t>{5, 7, 104},
                                             {5, 7, 106},
                                             {0, 7, 0},
                                             {5, 0, 0},
                                             {-5, -7, 105},
                                             {26755, 26755, size_t{26755} * 26755 * 3},
                                             {huge, huge, 3},
                                             {int64_t{1} << 32, int64_t{1} << 32, 0}}) {
    check(code(width, height, bytes) == kPixelsInvalid,
          std::to_string(bytes) + " bytes are no image of " + std::to_string(width) + " by " + std::to_string(height));
  }
}

void test_settings() {
  const auto code = [](int64_t resize, int64_t crop, const TensorType& to, int64_t element) {
    ClipPreprocess settings;
    settings.resize_shortest_edge = resize;
    settings.crop = crop;
    return test::code_of<EngineError>([&] { check_preprocess(settings, to, element); });
  };
  const TensorType two{DType::f32, {2, 3, 8, 8}};
  check(code(8, 8, two, 0).empty() && code(8, 8, two, 192).empty() && code(16384, 1, two, 381).empty(), "settings that fit");
  check(code(1, 16384, {DType::f32, {3, 16384, 16384}}, 0).empty(), "the largest crop");
  for (const int64_t size : {int64_t{0}, int64_t{-1}, int64_t{16385}, std::numeric_limits<int64_t>::max()}) {
    check(code(size, 8, two, 0) == kInvalidArgument, "resizing to " + std::to_string(size));
    check(code(8, size, two, 0) == kInvalidArgument, "a crop of " + std::to_string(size));
  }
  for (const int64_t element : {int64_t{-1}, int64_t{193}, std::numeric_limits<int64_t>::max()}) {
    check(code(8, 8, two, element) == kInvalidArgument, "a crop from element " + std::to_string(element));
  }
  check(code(12, 12, two, 0) == kInvalidArgument, "a crop larger than the tensor");
  check(code(8, 8, {DType::bf16, {2, 3, 8, 8}}, 0) == kInvalidArgument, "a tensor of another type");
}

void test_device(const std::string& isa) {
  const std::shared_ptr<Device> device = std::make_shared<CpuDevice>(1, isa);
  std::vector<uint8_t> pixels(40 * 31 * 3);
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i * i % 251);
  const RgbImage image{pixels.data(), 40, 31};
  ClipPreprocess settings;
  settings.resize_shortest_edge = 17;
  settings.crop = 16;
  constexpr size_t kValues = 3 * 16 * 16, kFirst = 5;
  std::vector<float> expected(kValues), got(kFirst + kValues + 7, 1234.5f);
  clip_preprocess(cpu::portable::kernels(), image, settings, expected.data());
  const auto buffer = device->allocate(got.size() * sizeof(float));
  device->write(*buffer, 0, got.data(), got.size() * sizeof(float));
  device->preprocess(image, settings, *buffer, kFirst);
  device->read(*buffer, 0, got.data(), got.size() * sizeof(float));
  check(std::memcmp(got.data() + kFirst, expected.data(), kValues * sizeof(float)) == 0, isa + " gives what portable gives");
  bool kept = true;
  for (size_t i = 0; i < got.size(); ++i) kept = kept && (got[i] == 1234.5f) == (i < kFirst || i >= kFirst + kValues);
  check(kept, isa + " writes its place and nothing else");
}

}  // namespace

int main() {
  test_images();
  test_settings();
  for (const std::string& isa : available_isas()) test_device(isa);
  return test::finish();
}
