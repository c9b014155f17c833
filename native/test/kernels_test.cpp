// What the kernels of every instruction set of this machine must do alike, seen through their table: round to bfloat16, store
// exactly the columns there are, give a sum that does not depend on how the work was cut, keep NaN, and stay within the stated
// error of the activations.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <thread>

#include "base/float_formats.h"
#include "base/thread_pool.h"
#include "cpu/isa.h"
#include "graph/rounding.h"
#include "test/check.h"

using namespace omni_id;
using namespace omni_id::cpu;
using test::check;

namespace {

// One m × n × k product, alone in memory: A, packed weights, and the result behind and before guards.
struct Product {
  int64_t m, n, k;
  ElementType type;
  std::vector<float> a, w;
  std::vector<uint16_t> narrow_a;
  std::vector<float> packed;            // f32 panels
  std::vector<uint16_t> narrow_packed;  // bf16 panels

  Product(int64_t rows, int64_t columns, int64_t depth, ElementType element, const std::function<float()>& next_a,
          const std::function<float()>& next_w)
      : m(rows), n(columns), k(depth), type(element) {
    const int64_t panels = (n + kPanelColumns - 1) / kPanelColumns, even = (k + 1) / 2 * 2;
    a.resize(static_cast<size_t>(m * k));
    w.resize(static_cast<size_t>(n * k));
    packed.assign(static_cast<size_t>(panels * k * kPanelColumns), 0.0f);
    narrow_packed.assign(static_cast<size_t>(panels * even * kPanelColumns), 0);
    for (float& x : a) narrow_a.push_back(bf16_from_float(x = next_a()));
    for (float& x : w) x = next_w();
    for (int64_t column = 0; column < n; ++column) {
      for (int64_t i = 0; i < k; ++i) {
        const float x = w[static_cast<size_t>(column * k + i)];
        const int64_t panel = column / kPanelColumns, in_panel = column % kPanelColumns;
        packed[static_cast<size_t>((panel * k + i) * kPanelColumns + in_panel)] = x;
        narrow_packed[static_cast<size_t>(panel * even * kPanelColumns + i / 2 * 2 * kPanelColumns + 2 * in_panel + i % 2)] =
            bf16_from_float(x);
      }
    }
  }

  Gemm gemm(void* out, ElementType out_type, Activation activation = kNoActivation) const {
    Gemm g{};
    g.m = m, g.n = n, g.k = k;
    g.a = type == kBf16 ? static_cast<const void*>(narrow_a.data()) : a.data();
    g.a_stride = k, g.a_type = type;
    g.weight = type == kBf16 ? static_cast<const void*>(narrow_packed.data()) : packed.data();
    g.weight_type = type, g.activation = activation;
    g.out = out, g.out_stride = n, g.out_type = out_type;
    return g;
  }
};

int64_t panels_of(const Gemm& g) { return (g.n + kPanelColumns - 1) / kPanelColumns; }

void run_block(const KernelTable& kernels, const Gemm& g, int64_t row_begin, int64_t row_end, int64_t panel_begin,
               int64_t panel_end) {
  std::vector<std::byte> scratch(kernels.gemm_scratch_bytes(&g, row_end - row_begin, panel_end - panel_begin) + 64);
  std::byte* aligned = scratch.data() + (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64);
  kernels.gemm_block(&g, row_begin, row_end, panel_begin, panel_end, aligned);
}

void run_whole(const KernelTable& kernels, const Gemm& g) { run_block(kernels, g, 0, g.m, 0, panels_of(g)); }

// Ties, their neighbours, the largest numbers, infinities and NaN through a product with 1, for every number of columns from 1
// to 65: all tails of all vectors. What stands behind the last column must stay.
void test_bf16_rounding(const KernelTable& kernels) {
  std::vector<float> values;
  for (const uint32_t high : {0x3f80u, 0x3f81u, 0xbf80u, 0xc0ffu, 0x7f7fu, 0xff7fu, 0x0080u, 0x4049u}) {
    for (const uint32_t low : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      values.push_back(std::bit_cast<float>(high << 16 | low));
    }
  }
  for (const uint32_t bits : {0x7f800000u, 0xff800000u, 0x7fc00000u, 0x7f800001u, 0x7fffffffu, 0xffffffffu}) {
    values.push_back(std::bit_cast<float>(bits));
  }
  int64_t wrong = 0, overwritten = 0;
  for (int64_t n = 1; n <= 65; ++n) {
    size_t next = static_cast<size_t>(n);
    Product one(
        1, n, 1, kF32, [] { return 1.0f; }, [&] { return values[next++ % values.size()]; });
    std::vector<uint16_t> out(static_cast<size_t>(n + 16), 0xabcd);
    run_whole(kernels, one.gemm(out.data(), kBf16));
    for (int64_t i = 0; i < n; ++i) {
      const float value = one.w[static_cast<size_t>(i)];
      const uint16_t got = out[static_cast<size_t>(i)];
      wrong += std::isnan(value) ? !std::isnan(float_from_bf16(got)) : got != bf16_from_float(value);
    }
    for (int64_t i = n; i < n + 16; ++i) overwritten += out[static_cast<size_t>(i)] != 0xabcd;
  }
  check(wrong == 0, std::string(kernels.name) + " rounds to bf16: " + std::to_string(wrong) + " wrong");
  check(overwritten == 0, std::string(kernels.name) + " writes past the last column");
}

// A block of rows and panels gives the bits that the whole product gives.
void test_cuts(const KernelTable& kernels) {
  for (const ElementType type : {kF32, kBf16}) {
    for (const int64_t k : {1, 2, 3, 4, 5, 7, 8, 9, 255, 259, 517}) {
      std::mt19937 random(static_cast<uint32_t>(k));
      std::normal_distribution<float> normal;
      const auto next = [&] { return normal(random); };
      const Product product(29, 101, k, type, next, next);
      std::vector<float> whole(29 * 101), parts(29 * 101);
      run_whole(kernels, product.gemm(whole.data(), kF32));
      const Gemm g = product.gemm(parts.data(), kF32);
      int64_t row = 0;
      for (const int64_t rows : {1, 2, 3, 4, 5, 6, 8}) {
        for (int64_t panel = 0; panel < panels_of(g); ++panel) run_block(kernels, g, row, row + rows, panel, panel + 1);
        row += rows;
      }
      const std::string what = std::string(kernels.name) + (type == kBf16 ? " bf16" : " f32") + " k=" + std::to_string(k);
      check(row == 29 && std::memcmp(whole.data(), parts.data(), whole.size() * 4) == 0, what + " depends on the cut");
      // The sum of k products of rounded factors, in any order, fused or not.
      double worst = 0.0;
      for (int64_t i = 0; i < 29; ++i) {
        for (int64_t j = 0; j < 101; ++j) {
          double sum = 0.0, magnitude = 0.0;
          for (int64_t l = 0; l < k; ++l) {
            double x = product.a[static_cast<size_t>(i * k + l)], y = product.w[static_cast<size_t>(j * k + l)];
            if (type == kBf16) {
              x = float_from_bf16(bf16_from_float(static_cast<float>(x)));
              y = float_from_bf16(bf16_from_float(static_cast<float>(y)));
            }
            sum += x * y;
            magnitude += std::abs(x * y);
          }
          const double error = std::abs(whole[static_cast<size_t>(i * 101 + j)] - sum) / magnitude;
          if (!(error <= worst)) worst = error;
        }
      }
      check(worst <= static_cast<double>(k + 1) * 0x1p-23,
            what + ": error " + std::to_string(worst) + " of the sum of magnitudes");
    }
  }
}

double exact(Activation activation, double x) {
  return activation == kGelu ? x * 0.5 * std::erfc(-x / std::sqrt(2.0)) : x / (1.0 + std::exp(-1.702 * x));
}

// The activation of every input, as the epilogue of a product with 1, which is exact.
std::vector<float> activations(const KernelTable& kernels, Activation activation, ElementType out_type,
                               const std::vector<float>& inputs) {
  size_t next = 0;
  Product one(
      1, static_cast<int64_t>(inputs.size()), 1, kF32, [] { return 1.0f; }, [&] { return inputs[next++]; });
  std::vector<float> out(inputs.size());
  std::vector<uint16_t> narrow(inputs.size());
  run_whole(kernels, out_type == kBf16 ? one.gemm(narrow.data(), kBf16, activation) : one.gemm(out.data(), kF32, activation));
  if (out_type == kBf16) std::transform(narrow.begin(), narrow.end(), out.begin(), float_from_bf16);
  return out;
}

// On [−12, 12] the bounds that simd.h states, and one rounding to the output's type.
void test_activations(const KernelTable& kernels) {
  std::vector<float> inputs;
  for (int i = -12 * 1024; i <= 12 * 1024; ++i) inputs.push_back(static_cast<float>(i) / 1024.0f);
  for (const Activation activation : {kGelu, kQuickGelu}) {
    for (const ElementType out_type : {kF32, kBf16}) {
      const std::vector<float> out = activations(kernels, activation, out_type, inputs);
      double worst = 0.0, at = 0.0;  // error / bound, and where
      for (size_t i = 0; i < inputs.size(); ++i) {
        const double x = inputs[i], expected = exact(activation, x);
        const double of_power = (3e-7 + 3.5 * std::abs(x) * 0x1p-24) / (1.0 + std::exp(1.702 * x));
        const double stated = activation == kQuickGelu ? std::abs(expected) * (of_power + 0x1p-23)
                              : out_type == kBf16      ? 4.3e-5
                                                       : std::abs(x) * 1.4e-7 + std::abs(expected) * 0x1p-24;
        const double rounding =
            out_type == kF32 ? 0.0 : rounding_to_bf16(std::max(std::abs(expected), std::abs(double{out[i]})));
        const double error = std::abs(out[i] - expected), ratio = error == 0.0 ? 0.0 : error / (stated + rounding);
        if (!(ratio <= worst)) worst = ratio, at = x;
      }
      check(worst <= 1.0, std::string(kernels.name) + (activation == kGelu ? " gelu" : " quick_gelu") +
                              (out_type == kBf16 ? " to bf16" : " to f32") + ": " + std::to_string(worst) +
                              " of its bound at " + std::to_string(at));
    }
  }
}

double exact_derivative(Activation activation, double x) {
  if (activation == kGelu) {
    return 0.5 * std::erfc(-x / std::sqrt(2.0)) + x * std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::acos(-1.0));
  }
  const double s = 1.0 / (1.0 + std::exp(-1.702 * x));
  return s + 1.702 * x * s * (1.0 - s);
}

// The derivatives, times 1, on [−12, 12] and far out: within what simd.h states, and NaN stays NaN.
void test_derivatives(const KernelTable& kernels) {
  std::vector<float> inputs;
  for (int i = -12 * 1024; i <= 12 * 1024; ++i) inputs.push_back(static_cast<float>(i) / 1024.0f);
  for (float x = 12.0f; x <= 100.0f; x += 0.37f) inputs.push_back(x), inputs.push_back(-x);
  inputs.push_back(std::numeric_limits<float>::quiet_NaN());
  for (const Activation activation : {kGelu, kQuickGelu}) {
    for (const ElementType type : {kF32, kBf16}) {
      std::vector<float> out(inputs.size(), 1.0f);
      std::vector<uint16_t> narrow(inputs.size(), bf16_from_float(1.0f));
      Elementwise g{};
      g.a = g.out = type == kBf16 ? static_cast<void*>(narrow.data()) : static_cast<void*>(out.data());
      g.b = inputs.data();
      g.type = type;
      g.b_type = kF32;
      g.activation = activation;
      g.count = static_cast<int64_t>(inputs.size());
      kernels.activation_gradient(&g);
      if (type == kBf16) std::transform(narrow.begin(), narrow.end(), out.begin(), float_from_bf16);
      const std::string what = std::string(kernels.name) + " derivative of " + (activation == kGelu ? "gelu" : "quick_gelu") +
                               (type == kBf16 ? " to bf16" : " to f32");
      double worst = 0.0, at = 0.0;
      for (size_t i = 0; i + 1 < inputs.size(); ++i) {
        const double expected = exact_derivative(activation, inputs[i]);
        const double stated = activation == kQuickGelu ? 2e-6 : type == kBf16 ? 2.6e-5 : 6e-7;
        const double rounding = type == kF32 ? 0.0 : rounding_to_bf16(std::max(std::abs(expected), std::abs(double{out[i]})));
        const double error = std::abs(out[i] - expected), ratio = error == 0.0 ? 0.0 : error / (stated + rounding);
        if (!(ratio <= worst)) worst = ratio, at = inputs[i];
      }
      check(worst <= 1.0, what + ": " + std::to_string(worst) + " of its bound at " + std::to_string(at));
      check(std::isnan(out.back()), what + " keeps NaN");
    }
  }
}

// Far out gelu is 0 or x, as long as there are floats; NaN stays NaN.
void test_far_activations(const KernelTable& kernels) {
  std::vector<float> inputs;
  for (float x = 12.0f; x <= 100.0f; x += 0.37f) inputs.push_back(x), inputs.push_back(-x);
  inputs.push_back(std::numeric_limits<float>::quiet_NaN());
  for (const Activation activation : {kGelu, kQuickGelu}) {
    for (const ElementType out_type : {kF32, kBf16}) {
      const std::vector<float> out = activations(kernels, activation, out_type, inputs);
      double worst = 0.0;
      for (size_t i = 0; i + 1 < inputs.size(); ++i) {
        const double x = inputs[i], error = std::abs(out[i] - exact(activation, x)) / std::max(1.0, std::abs(x));
        if (!(error <= worst)) worst = error;
      }
      const std::string what = std::string(kernels.name) + (activation == kGelu ? " gelu" : " quick_gelu") +
                               (out_type == kBf16 ? " to bf16" : " to f32");
      check(worst <= (out_type == kBf16 ? 0x1p-8 : 0x1p-21), what + " far out: error " + std::to_string(worst));
      check(std::isnan(out.back()), what + " keeps NaN");
    }
  }
}

// The engine's own threads flush denormals, in what they read and in what they write; the thread that asks does not.
// The sign of a difference decides a gradient, however small it is; what is not finite stays so, whatever the mask says.
void test_signs_of_differences(const KernelTable& kernels) {
  constexpr float kTiny = std::numeric_limits<float>::min(), kInfinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> prediction{kTiny, -kTiny, 0.0f, 3.0f, 1.0f, 2e38f, -2e38f, kInfinity, -kInfinity, nan, 5.0f, 5.0f};
  const std::vector<float> target{0.0f, 0.0f, 0.0f, 1.0f, 3.0f, -1e38f, 1e38f, 0.0f, 0.0f, 0.0f, 5.0f, 4.0f};
  const std::vector<float> mask{1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 0.0f, 1.0f, 1.0f, 0.0f};
  const std::vector<float> expected{0.5f, -0.5f, 0.0f, 0.5f, -0.5f, 0.5f, -0.5f, nan, nan, nan, 0.0f, 0.0f};
  std::vector<float> out(prediction.size() + 1, 7.0f);
  const int64_t count = static_cast<int64_t>(prediction.size());
  const MaskedL1 line{prediction.data(), target.data(), mask.data(), out.data(), 1, count, count, count, 0.5f};
  kernels.masked_l1_gradient(&line);
  int64_t wrong = out.back() != 7.0f;
  for (size_t i = 0; i < expected.size(); ++i) {
    wrong += std::isnan(expected[i]) ? !std::isnan(out[i]) : !(out[i] == expected[i]);
  }
  check(wrong == 0, std::string(kernels.name) + " gives differences their signs");
  check(std::isnan(kernels.masked_l1(&line)), std::string(kernels.name) + " keeps a loss that is not finite");
}

void test_denormals() {
  const auto halves = [](float x) {
    volatile float value = x;
    value = value * 0.5f;
    volatile float result = value * 2.0f;
    return static_cast<float>(result);
  };
  const float least = std::numeric_limits<float>::min(), denormal = least / 4.0f;
  float flushed_result = 1.0f, flushed_input = 1.0f, normal = 0.0f;
  std::thread([&] {
    flush_denormals_on_this_thread();
    flushed_result = halves(least);
    flushed_input = halves(denormal);
    normal = halves(least * 2.0f);
  }).join();
  check(flushed_result == 0.0f && flushed_input == 0.0f, "denormals are flushed on an engine thread");
  check(normal == least * 2.0f, "normal numbers are kept on an engine thread");
  check(halves(least) == least, "denormals are kept on other threads");
}

}  // namespace

int main() {
  for (const std::string& isa : available_isas()) {
    const KernelTable& kernels = kernels_for(isa);
    check(kernels.name == isa, isa + " names itself");
    test_bf16_rounding(kernels);
    test_cuts(kernels);
    test_activations(kernels);
    test_far_activations(kernels);
    test_derivatives(kernels);
    test_signs_of_differences(kernels);
    std::printf("%s\n", isa.c_str());
  }
  test_denormals();
  return test::finish();
}
