#pragma once

#include "cpu/kernels/transpose.h"

// What attention and its gradient share: rows of one head, read from wherever they lie and packed for the GEMM tile
// (gemm_tile.h), and powers of two. Source is the type in memory, T the type that the tile multiplies: float, or uint16_t for
// pairs of bfloat16. A word is what the tile takes in one step and lane: a float, or a pair.
namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE {

// A vector of words of a row, in the form that the tile multiplies: floats, or pairs of bfloat16 as they lie in memory. Only
// the first `elements` elements are read, the others are zero.
template <typename Source, typename T>
OMNI_ID_INLINE Vector load_words(const Source* from, int64_t elements) {
  constexpr int64_t kPair = 4 / sizeof(T);
  if constexpr (sizeof(Source) == sizeof(T)) {
    if (elements >= kWidth * kPair) return load((const float*)from);
    if (elements % kPair == 0) return load_n((const float*)from, elements / kPair);
  } else if (elements >= kWidth) {
    return load_bf16((const uint16_t*)from);
  }
  float words[kWidth] = {};
  for (int64_t i = 0; i < elements && i < kWidth * kPair; ++i) {
    if constexpr (sizeof(Source) == sizeof(T)) {
      __builtin_memcpy((T*)words + i, from + i, sizeof(T));
    } else {
      words[i] = float_of((uint32_t)from[i] << 16);
    }
  }
  return load(words);
}

// A row of `elements` to the tile's type, zeros up to a whole vector.
template <typename Source, typename T>
OMNI_ID_INLINE void copy_row(const Source* from, int64_t elements, T* to) {
  constexpr int64_t kStep = kWidth * (4 / sizeof(T));
  for (int64_t i = 0; i < elements; i += kStep) store((float*)(to + i), load_words<Source, T>(from + i, elements - i));
}

// The first n dimensions of a step of rows: one row in f32, or two side by side in pairs, the second of them zero where there
// is none. Dimensions past the n-th are zero; n may be any number.
#if defined(OMNI_ID_ISA_AVX512BF16)
OMNI_ID_INLINE Vector load_step(const uint16_t* row, const uint16_t* second, int64_t n) {
  const __mmask16 lanes = n >= kWidth ? (__mmask16)0xffff : n > 0 ? first_lanes(n) : (__mmask16)0;
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, row));
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(second ? lanes : (__mmask16)0, second));
  return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}
#elif defined(OMNI_ID_ISA_NEONBF16)
// The first n of four bfloat16, as bits, zeros for the others; n may be any number.
OMNI_ID_INLINE uint16x4_t load_bits_n(const uint16_t* p, int64_t n) {
  if (n >= 4) return vld1_u16(p);
  uint16_t bits[4] = {};
  for (int64_t i = 0; i < n; ++i) bits[i] = p[i];
  return vld1_u16(bits);
}
OMNI_ID_INLINE Vector load_step(const uint16_t* row, const uint16_t* second, int64_t n) {
  const uint16x4_t low = load_bits_n(row, n), high = load_bits_n(second, second ? n : 0);
  return vreinterpretq_f32_u16(vcombine_u16(vzip1_u16(low, high), vzip2_u16(low, high)));
}
#endif
template <typename Source, typename T>
OMNI_ID_INLINE Vector load_step(const Source* rows, int64_t stride, int64_t count, int64_t n) {
  if constexpr (sizeof(T) == 4) {
    return n > 0 ? load_words<Source, T>(rows, n) : splat(0.0f);
  } else {
    return load_step(rows, count > 1 ? rows + stride : nullptr, n);
  }
}

// Rows as columns of panels, turned in squares of kWidth × kWidth words: panel[dim / pair][32 rows]. Rows past the last one are
// zeros, up to a whole vector.
template <typename Source, typename T>
static void pack_transposed(const Source* from, int64_t stride, int64_t rows, int64_t dim, T* panels) {
  constexpr int64_t kPair = 4 / sizeof(T);
  const int64_t words = divide_up(dim, kPair);
  for (int64_t row = 0; row < rows; row += kWidth) {
    float* panel = (float*)panels + row / kPanelColumns * words * kPanelColumns + row % kPanelColumns;
    for (int64_t word = 0; word < words; word += kWidth) {
      Vector square[kWidth];
#pragma GCC unroll 16
      for (int64_t i = 0; i < kWidth; ++i) {
        square[i] =
            row + i < rows ? load_words<Source, T>(from + (row + i) * stride + word * kPair, dim - word * kPair) : splat(0.0f);
      }
      transpose(square);
      const int64_t count = smaller(kWidth, words - word);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kWidth; ++i) {
        if (i < count) store(panel + (word + i) * kPanelColumns, square[i]);
      }
    }
  }
}

// Rows as steps of panels: panel[row / pair][32 dims][pair], the two rows of a pair interleaved.
template <typename Source, typename T>
static void pack_rows(const Source* from, int64_t stride, int64_t rows, int64_t dim, T* panels) {
  constexpr int64_t kPair = 4 / sizeof(T);
  const int64_t steps = divide_up(rows, kPair);
  for (int64_t first = 0; first < dim; first += kPanelColumns) {
    float* panel = (float*)panels + first * steps;
    for (int64_t step = 0; step < steps; ++step) {
      const Source* row = from + step * kPair * stride + first;
      for (int64_t d = 0; d < kPanelColumns; d += kWidth) {
        store(panel + step * kPanelColumns + d, load_step<Source, T>(row + d, stride, rows - step * kPair, dim - first - d));
      }
    }
  }
}

// to[dim][row] = from[row][dim]; zeros follow the last row, up to a whole vector.
template <typename Source, typename T>
static void transpose_rows(const Source* from, int64_t stride, int64_t rows, int64_t dim, T* to, int64_t to_stride) {
  constexpr int64_t kPair = 4 / sizeof(T);
  for (int64_t row = 0; row < rows; row += kWidth * kPair) {
    for (int64_t d = 0; d < dim; d += kWidth) {
      Vector square[kWidth];
#pragma GCC unroll 16
      for (int64_t i = 0; i < kWidth; ++i) {
        const int64_t first = row + i * kPair;
        square[i] = first < rows ? load_step<Source, T>(from + first * stride + d, stride, rows - first, dim - d) : splat(0.0f);
      }
      transpose(square);
      const int64_t count = smaller(kWidth, dim - d);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kWidth; ++i) {
        if (i < count) store((float*)(to + (d + i) * to_stride + row), square[i]);
      }
    }
  }
}

// Part `part` of `parts` of a head's rows, fetched into the second-level cache: two or three lines each, `stride` elements
// apart, which no hardware prefetcher follows.
template <typename Source, bool kWrite = false>
static void fetch_rows(const void* rows, int64_t stride, int64_t count, int64_t dim, int64_t part, int64_t parts) {
  if (!rows) return;
  constexpr int64_t kLine = 64;
  for (int64_t row = count * part / parts; row < count * (part + 1) / parts; ++row) {
    const char* first = (const char*)((const Source*)rows + row * stride);
    const char* last = first + dim * (int64_t)sizeof(Source) - 1;
    for (const char* at = first; at < last; at += kLine) __builtin_prefetch(at, kWrite ? 1 : 0, 2);
    __builtin_prefetch(last, kWrite ? 1 : 0, 2);
  }
}

OMNI_ID_INLINE void store_elements(float* to, Vector x) { store(to, x); }
OMNI_ID_INLINE void store_elements(uint16_t* to, Vector x) { store_bf16(to, x); }
OMNI_ID_INLINE void store_part(float* to, Vector x, int64_t n) { n >= kWidth ? store(to, x) : store_n(to, x, n); }
OMNI_ID_INLINE void store_part(uint16_t* to, Vector x, int64_t n) { n >= kWidth ? store_bf16(to, x) : store_bf16_n(to, x, n); }

// out[:] = accumulator[:] · factor
template <typename Source>
OMNI_ID_INLINE void store_row(const float* accumulator, float factor, int64_t dim, Source* out) {
  for (int64_t d = 0; d < dim; d += kWidth) store_part(out + d, multiply(load(accumulator + d), splat(factor)), dim - d);
}

// 2^x for x ≤ 0; below −126 it gives 2^−126. 2^f on [−½, ½] is a minimax polynomial: of degree 5 (relative error 8e-8) in f32,
// and of degree 3 (7e-5, a thirtieth of the rounding to come) where weights are rounded to bfloat16 or were made of it.
template <typename Source>
OMNI_ID_INLINE Vector power_of_two(Vector x) {
  x = larger_of(splat(-126.0f), x);  // of an unordered pair the second operand is taken, so that NaN stays NaN
  const Vector n = round_to_integer(x);
  const Vector f = subtract(x, n);
  Vector p;
  if constexpr (sizeof(Source) == 2) {
    p = multiply_add(f, splat(0.05517167f), splat(0.24261113f));
    p = multiply_add(p, f, splat(0.69326097f));
    p = multiply_add(p, f, splat(0.99992806f));
  } else {
    p = multiply_add(f, splat(0.0013276472f), splat(0.009675541f));
    p = multiply_add(p, f, splat(0.05550713f));
    p = multiply_add(p, f, splat(0.2402212f));
    p = multiply_add(p, f, splat(0.69314694f));
    p = multiply_add(p, f, splat(1.0000001f));
  }
  return scale_by_power(p, n);
}

}  // namespace omni_id::cpu::OMNI_ID_ISA_NAMESPACE
