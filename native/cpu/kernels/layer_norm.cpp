// Layer norm: out = (x − mean(x)) / sqrt(var(x) + ε) · weight + bias over each row.
//
// Strategy: three passes over a row that stays in the first-level cache: mean, then the variance of the differences (not
// E[x²] − E[x]², which cancels when the mean is large), then the result, in f32 or rounded to bf16 for the next product.
// Cost: reads 4 bytes and writes 4 or 2 an element; bound by memory.
//
// Gradient: dx = (g − mean(g) − x̂ · mean(g ⊙ x̂)) · rstd + sum with g = dy ⊙ weight, x̂ = (x − mean) · rstd; dweight = Σ dy ⊙ x̂,
// dbias = Σ dy over the rows. Mean and variance are computed again, from a row that is read anyway; then one pass for the two
// means and the sums over rows (which lie in the first-level cache), and one for dx. Cost: reads 8 to 12 bytes an element,
// writes 4.
#include "cpu/kernels/simd.h"

namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

namespace {

// Sums in flight: one alone would wait for the adder's latency at every step.
constexpr int64_t kChains = 4;

OMNI_ID_INLINE Vector total_of(const Vector (&sums)[kChains]) { return add(add(sums[0], sums[1]), add(sums[2], sums[3])); }

float mean_of(const float* x, int64_t n) {
  Vector sums[kChains] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  int64_t i = 0;
  for (; i + kChains * kWidth <= n; i += kChains * kWidth) {
    for (int64_t chain = 0; chain < kChains; ++chain) sums[chain] = add(sums[chain], load(x + i + chain * kWidth));
  }
  for (; i + kWidth <= n; i += kWidth) sums[0] = add(sums[0], load(x + i));
  if (i < n) sums[1] = add(sums[1], load_n(x + i, n - i));
  return sum_of(total_of(sums)) / (float)n;
}

float variance_of(const float* x, int64_t n, float mean) {
  const Vector center = splat(mean);
  Vector sums[kChains] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  int64_t i = 0;
  for (; i + kChains * kWidth <= n; i += kChains * kWidth) {
    for (int64_t chain = 0; chain < kChains; ++chain) {
      const Vector d = subtract(load(x + i + chain * kWidth), center);
      sums[chain] = multiply_add(d, d, sums[chain]);
    }
  }
  for (; i + kWidth <= n; i += kWidth) {
    const Vector d = subtract(load(x + i), center);
    sums[0] = multiply_add(d, d, sums[0]);
  }
  float total = sum_of(total_of(sums));
  for (; i < n; ++i) total += (x[i] - mean) * (x[i] - mean);
  return total / (float)n;
}

}  // namespace

void layer_norm(const LayerNorm* g, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    const float* x = g->x + row * g->x_stride;
    const float mean = mean_of(x, g->columns);
    const float rstd = 1.0f / __builtin_sqrtf(variance_of(x, g->columns, mean) + g->epsilon);
    const Vector center = splat(mean), scale = splat(rstd);
    for (int64_t i = 0; i < g->columns; i += kWidth) {
      const int64_t n = smaller(kWidth, g->columns - i);
      const bool whole = n == kWidth;
      const Vector d = subtract(whole ? load(x + i) : load_n(x + i, n), center);
      const Vector weight = whole ? load(g->weight + i) : load_n(g->weight + i, n);
      const Vector bias = whole ? load(g->bias + i) : load_n(g->bias + i, n);
      const Vector y = multiply_add(multiply(d, scale), weight, bias);
      const int64_t at = row * g->out_stride + i;
      if (g->out_type == kBf16) {
        whole ? store_bf16((uint16_t*)g->out + at, y) : store_bf16_n((uint16_t*)g->out + at, y, n);
      } else {
        whole ? store((float*)g->out + at, y) : store_n((float*)g->out + at, y, n);
      }
    }
  }
}

void layer_norm_gradient(const LayerNormGradient* g, int64_t row_begin, int64_t row_end, float* sums) {
  const int64_t columns = g->columns;
  float *weight_sums = sums, *bias_sums = sums + columns;
  __builtin_memset(sums, 0, (size_t)columns * 2 * sizeof(float));
  for (int64_t row = row_begin; row < row_end; ++row) {
    const float* x = g->x + row * g->x_stride;
    const float mean = mean_of(x, columns);
    const float rstd = 1.0f / __builtin_sqrtf(variance_of(x, columns, mean) + g->epsilon);
    const Vector center = splat(mean), scale = splat(rstd);
    Vector g_total = splat(0.0f), gx_total = splat(0.0f);
    for (int64_t i = 0; i < columns; i += kWidth) {
      const int64_t n = smaller(kWidth, columns - i);
      const Vector normal = multiply(subtract(load_any(x, kF32, i, n), center), scale);
      const Vector dy = load_any(g->dy, g->dy_type, row * g->dy_stride + i, n);
      const Vector scaled = multiply(dy, load_any(g->weight, kF32, i, n));
      g_total = add(g_total, scaled);
      gx_total = multiply_add(scaled, normal, gx_total);
      store_any(weight_sums, kF32, i, multiply_add(dy, normal, load_any(weight_sums, kF32, i, n)), n);
      store_any(bias_sums, kF32, i, add(dy, load_any(bias_sums, kF32, i, n)), n);
    }
    const Vector g_mean = splat(sum_of(g_total) / (float)columns), gx_mean = splat(sum_of(gx_total) / (float)columns);
    for (int64_t i = 0; i < columns; i += kWidth) {
      const int64_t n = smaller(kWidth, columns - i);
      const Vector normal = multiply(subtract(load_any(x, kF32, i, n), center), scale);
      const Vector dy = load_any(g->dy, g->dy_type, row * g->dy_stride + i, n);
      const Vector scaled = multiply(dy, load_any(g->weight, kF32, i, n));
      Vector dx = multiply(subtract(subtract(scaled, g_mean), multiply(normal, gx_mean)), scale);
      if (g->sum) dx = add(dx, load_any(g->sum, kF32, row * g->sum_stride + i, n));
      store_any(g->dx, kF32, row * g->dx_stride + i, dx, n);
    }
  }
}

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE
