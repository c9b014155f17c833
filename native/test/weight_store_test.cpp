// New weights follow from seed, name and index alone: the numbers of Box-Muller on Philox, computed here once more and in
// order, for every number of threads, and the same as ever.
#include "weights/weight_store.h"

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/philox.h"
#include "base/thread_pool.h"
#include "test/check.h"

using namespace omni_id;
using test::check;

namespace {

std::vector<float> normal_on(int threads, const std::string& name, const Shape& shape, uint64_t seed, double mean,
                             double standard_deviation) {
  ThreadPool pool(threads);
  WeightStore store;
  store.set_normal(name, shape, seed, mean, standard_deviation, [&](int64_t tasks, const std::function<void(int64_t)>& body) {
    pool.parallel_for(tasks, [&](int64_t task, int) { body(task); });
  });
  const WeightTensor tensor = store.at(name);
  check(tensor.type == TensorType{DType::f32, shape} && store.owned_bytes() == tensor.type.bytes(), name + " has its type");
  std::vector<float> values(static_cast<size_t>(elements_of(shape)));
  read_as_f32(tensor, 0, elements_of(shape), values.data());
  return values;
}

std::vector<float> normal_in_order(const std::string& name, int64_t n, uint64_t seed, double mean, double standard_deviation) {
  uint64_t stream = 0xcbf29ce484222325u;
  for (const char c : name) stream = (stream ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  std::vector<float> values;
  for (uint64_t counter = 0; static_cast<int64_t>(values.size()) < n; ++counter) {
    const auto bits = philox4x32({static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                                  static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
    for (const int pair : {0, 2}) {
      const double radius = std::sqrt(-2.0 * std::log((bits[static_cast<size_t>(pair)] + 0.5) * 0x1p-32));
      const double angle = 2.0 * 3.14159265358979323846 * (bits[static_cast<size_t>(pair + 1)] + 0.5) * 0x1p-32;
      values.push_back(static_cast<float>(mean + standard_deviation * (radius * std::cos(angle))));
      values.push_back(static_cast<float>(mean + standard_deviation * (radius * std::sin(angle))));
    }
  }
  values.resize(static_cast<size_t>(n));
  return values;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

void test_normal() {
  // The last shapes take several tasks, and end in half a block of four.
  for (const Shape& shape : {Shape{0, 5}, {1}, {5, 3}, {65536}, {65537}, {301, 1031}}) {
    const int64_t n = elements_of(shape);
    const uint64_t seed = (uint64_t{5} << 32) + 3;
    const auto expected = normal_in_order("vision_model.x", n, seed, 0.5, 1.0 / 36);
    for (const int threads : {1, 2, 5}) {
      check(same(normal_on(threads, "vision_model.x", shape, seed, 0.5, 1.0 / 36), expected),
            to_string(shape) + " on " + std::to_string(threads) + " threads");
    }
  }
  // As the first version drew them.
  check(same(normal_on(2, "queries", {5, 3}, 7, 0.0, 0.02),
             {-0x1.5694e8p-9f, 0x1.5e1a08p-7f, 0x1.778c78p-9f, 0x1.217238p-9f, -0x1.5e1726p-6f, -0x1.04ea86p-6f,
              -0x1.784732p-9f, 0x1.56a214p-11f, 0x1.93706ep-6f, -0x1.87b61cp-7f, 0x1.b3d0c2p-6f, 0x1.60d47ap-6f,
              -0x1.ceb322p-10f, 0x1.56f002p-6f, 0x1.5a06bap-6f}),
        "the numbers of seed 7 are what they were");
  check(!same(normal_on(1, "queries", {5, 3}, 8, 0.0, 0.02), normal_on(1, "queries", {5, 3}, 7, 0.0, 0.02)), "seeds differ");
  check(!same(normal_on(1, "a", {5, 3}, 7, 0.0, 0.02), normal_on(1, "b", {5, 3}, 7, 0.0, 0.02)), "names differ");
  check(same(normal_on(2, "norm.weight", {70000}, 7, 1.0, 0.0), std::vector<float>(70000, 1.0f)), "constants");

  const std::vector<float> many = normal_on(2, "many", {1 << 20}, 1, 3.0, 2.0);
  double mean = 0.0, square = 0.0;
  for (const float x : many) mean += x / static_cast<double>(many.size());
  for (const float x : many) square += (x - mean) * (x - mean) / static_cast<double>(many.size());
  // Five standard errors of the mean, and of the variance, of a million numbers.
  check(std::abs(mean - 3.0) < 5 * 2.0 / 1024 && std::abs(square - 4.0) < 5 * 4.0 * std::sqrt(2.0) / 1024,
        "mean and deviation");
}

}  // namespace

int main() {
  test_normal();
  return test::finish();
}
