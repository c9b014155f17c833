// One pass of Pillow's 8-bit resampling in one direction, to the bit:
//   out[i] = clip8((2^21 + Σ_t pixel[first(i) + t] · weight[i][t]) >> 22)
// with the weights as whole numbers of 22 fractional bits (Pillow, src/libImaging/Resample.c, ImagingResample*_8bpc).
//
// Strategy: kLanes sums side by side. Down the columns they are neighbouring bytes of a row. Along the rows, kLanes rows are
// first transposed, so that there too a step multiplies one weight with consecutive bytes: no shuffles, and the compiler turns
// the fixed-length loops into whole vectors in every instruction set. Cost: a multiply-add a tap and byte of output; the
// transposition touches every input byte once more.
#include "cpu/kernels/simd.h"

namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

namespace {

constexpr int64_t kLanes = 16;

OMNI_ID_INLINE uint8_t clip8(int32_t sum) {
  const int32_t value = sum >> 22;
  return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

// One output of kLanes bytes: taps are `stride` bytes apart.
OMNI_ID_INLINE void resample_lanes(const uint8_t* pixels, int64_t stride, const int32_t* weights, int64_t taps, uint8_t* out) {
  int32_t sum[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) sum[lane] = 1 << 21;
  for (int64_t tap = 0; tap < taps; ++tap) {
    const int32_t weight = weights[tap];
    const uint8_t* from = pixels + tap * stride;
    for (int64_t lane = 0; lane < kLanes; ++lane) sum[lane] += from[lane] * weight;
  }
  for (int64_t lane = 0; lane < kLanes; ++lane) out[lane] = clip8(sum[lane]);
}

}  // namespace

size_t resample_scratch_bytes(const Resample* g) { return (size_t)(g->source_pixels * 3 * kLanes); }

// Rows [row_begin, row_end): every row's pixels from `source` (3 bytes each) to g->outputs pixels.
void resample_rows(const Resample* g, int64_t row_begin, int64_t row_end, void* scratch) {
  uint8_t* turned = (uint8_t*)scratch;  // [source byte][lane]
  const int64_t bytes = g->source_pixels * 3;
  for (int64_t row = row_begin; row < row_end; row += kLanes) {
    const int64_t rows = smaller(kLanes, row_end - row);
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      // Lanes past the last row repeat it; their results are not stored.
      const uint8_t* from = g->source + (row + smaller(lane, rows - 1)) * g->source_stride;
      for (int64_t i = 0; i < bytes; ++i) turned[i * kLanes + lane] = from[i];
    }
    for (int64_t output = 0; output < g->outputs; ++output) {
      const int32_t* weights = g->weights + output * g->most_taps;
      for (int64_t channel = 0; channel < 3; ++channel) {
        uint8_t lanes[kLanes];
        resample_lanes(turned + (g->first[output] * 3 + channel) * kLanes, 3 * kLanes, weights, g->taps[output], lanes);
        for (int64_t lane = 0; lane < rows; ++lane) g->out[(row + lane) * g->out_stride + output * 3 + channel] = lanes[lane];
      }
    }
  }
}

// Outputs [begin, end): each a row of `source_pixels` pixels, from the rows of `source`.
void resample_columns(const Resample* g, int64_t begin, int64_t end) {
  const int64_t bytes = g->source_pixels * 3;
  for (int64_t output = begin; output < end; ++output) {
    const int32_t* weights = g->weights + output * g->most_taps;
    const uint8_t* from = g->source + g->first[output] * g->source_stride;
    uint8_t* out = g->out + output * g->out_stride;
    int64_t byte = 0;
    for (; byte + kLanes <= bytes; byte += kLanes) {
      resample_lanes(from + byte, g->source_stride, weights, g->taps[output], out + byte);
    }
    for (; byte < bytes; ++byte) {
      int32_t sum = 1 << 21;
      for (int64_t tap = 0; tap < g->taps[output]; ++tap) sum += from[tap * g->source_stride + byte] * weights[tap];
      out[byte] = clip8(sum);
    }
  }
}

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE
