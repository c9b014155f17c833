#pragma once

#include "cuda/primitives.cuh"

// The operands of a product y[i, j] = Σ_l left(i, l) · right(j, l) on their way from global memory into a tensor core. Both are
// seen alike: rows (i or j) by depth (l). What differs is which of the two is contiguous in memory, and neither is ever copied
// transposed: the tile in shared memory keeps the order of global memory, and ldmatrix or the reading lanes turn it.
//
// A tile is `rows` rows by kDepthBytes of depth, 32 values in bf16 and 16 in f32: the same bytes in the same places for both.
// Shared memory is cut into chunks of 16 bytes; where a chunk lies within its line depends on the line, so that the eight
// chunks of one phase of ldmatrix, which are one below the other, lie in different banks:
//   depth contiguous   lines are rows, 4 chunks:              chunk ^ (row / 2 % 4)
//   rows contiguous    lines are depths, bf16, 8 or 16 chunks: chunk ^ (depth % 8)
//                      f32, 16 or 32 chunks, read by single words of 4 depths × 8 rows: chunk ^ (depth % 4 · 2)
namespace omni_id::cuda {

enum class Contiguous { depth, rows };

constexpr int kDepthBytes = 64;
constexpr int kStepBytes = 32;  // the depth of one mma: 16 in bf16, 8 in tf32
constexpr int kSteps = kDepthBytes / kStepBytes;

template <typename T>
constexpr int kTileDepth = kDepthBytes / static_cast<int>(sizeof(T));
template <typename T>
constexpr int kChunk = kChunkBytes / static_cast<int>(sizeof(T));  // values

template <typename T, Contiguous contiguous, int rows>
struct OperandTile {
  static constexpr int kBytes = rows * kDepthBytes;
  static constexpr int kChunks = kBytes / kChunkBytes;
  static constexpr int kChunksPerLine =
      contiguous == Contiguous::depth ? kDepthBytes / kChunkBytes : rows * static_cast<int>(sizeof(T)) / kChunkBytes;
  static constexpr int kLineBytes = kChunksPerLine * kChunkBytes;

  // Bytes from the tile's start.
  static __device__ __forceinline__ int place(int line, int chunk) {
    const int turned = contiguous == Contiguous::depth ? line >> 1 & 3 : sizeof(T) == 2 ? line & 7 : (line & 3) << 1;
    return line * kLineBytes + ((chunk ^ turned) << 4);
  }

  // 16 rows from `row` on of one step, as the left operand of an mma has them: x and z are the lower and the upper half of the
  // depth of rows 0 to 7, y and w of rows 8 to 15. Of a right operand, x and z are the first eight columns, y and w the others.
  static __device__ __forceinline__ uint4 fragment(const unsigned char* tile, int row, int step) {
    int lane = threadIdx.x % kWarp;
    if constexpr (contiguous == Contiguous::depth) {
      lane = static_cast<unsigned>(thread_again()) % kWarp;
      return ldmatrix_x4(tile + place(row + lane % 16, step * 2 + lane / 16));
    } else if constexpr (sizeof(T) == 2) {
      return ldmatrix_x4_transposed(tile + place(step * 16 + lane / 16 * 8 + lane % 8, row / 8 + lane / 8 % 2));
    } else {
      const auto word = [&](int of_row, int depth) {
        return *reinterpret_cast<const unsigned*>(tile + place(depth, of_row / 4) + of_row % 4 * 4);
      };
      const int g = row + lane / 4, t = step * 8 + lane % 4;
      return make_uint4(word(g, t), word(g + 8, t), word(g, t + 4), word(g + 8, t + 4));
    }
  }
};

// A matrix in global memory, [rows, depth] or [depth, rows] as `contiguous` says.
template <typename T, Contiguous contiguous_>
struct MatrixOperand {
  using Element = T;
  static constexpr Contiguous contiguous = contiguous_;
  // Nothing waits in registers: copies go to shared memory by themselves.
  template <int chunks>
  struct Staging {};

  const T* data;
  int64_t stride;
  int rows;
  // What base and stride are multiples of, in bytes, and so how much is copied at once: 16; 4, where the strides allow no more
  // (14 · 14 · 3 values of a patch in bf16 are 73 and a half chunks); 2, of odd strides in bf16, for which there is no
  // asynchronous copy.
  int unit;

  __device__ __forceinline__ float value(int64_t row, int64_t depth) const {
    return to_float(contiguous == Contiguous::depth ? data[row * stride + depth] : data[depth * stride + row]);
  }

  // Starts the copy of depths [first, end) of rows from `row` on. What lies beyond the matrix is filled with zeros.
  template <int tile_rows, int threads>
  __device__ __forceinline__ void fetch(Staging<tile_rows * kDepthBytes / kChunkBytes / threads>&, unsigned char* tile, int row,
                                        int first, int end) const {
    using Tile = OperandTile<T, contiguous, tile_rows>;
    const int thread = thread_again();
#pragma unroll
    for (int i = 0; i < Tile::kChunks / threads; ++i) {
      const int chunk = i * threads + thread;
      const int line = chunk / Tile::kChunksPerLine, place = chunk % Tile::kChunksPerLine;
      // The chunk's first value, and how many there are from it on.
      const int at_line = (contiguous == Contiguous::depth ? row : first) + line;
      const int at = (contiguous == Contiguous::depth ? first : row) + place * kChunk<T>;
      const bool inside = at_line < (contiguous == Contiguous::depth ? rows : end);
      const int left = (contiguous == Contiguous::depth ? end : rows) - at;
      const int count = inside ? max(0, min(left, kChunk<T>)) : 0;
      copy(tile + Tile::place(line, place), count > 0 ? data + at_line * stride + at : data, count);
    }
  }

  template <int tile_rows, int threads>
  __device__ __forceinline__ void put(const Staging<tile_rows * kDepthBytes / kChunkBytes / threads>&, unsigned char*) const {}

 private:
  __device__ __forceinline__ void copy(unsigned char* to, const T* from, int count) const {
    constexpr int kSize = static_cast<int>(sizeof(T));
    if (unit == 16) {
      cp_async_16(to, from, count * kSize);
    } else if (unit == 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int valid = max(0, min(4, count * kSize - 4 * i));
        cp_async_4(to + 4 * i, valid > 0 ? from + 4 * i / kSize : from, valid);
      }
    } else if constexpr (kSize == 2) {
      unsigned pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const unsigned low = 2 * i < count ? __bfloat16_as_ushort(from[2 * i]) : 0u;
        const unsigned high = 2 * i + 1 < count ? __bfloat16_as_ushort(from[2 * i + 1]) : 0u;
        pairs[i] = low | high << 16;
      }
      store_vector(to, make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]));
    }
  }
};

}  // namespace omni_id::cuda
