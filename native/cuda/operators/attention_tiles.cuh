#pragma once

#include "cuda/operators/launching.h"

// Tiles of rows of one head in shared memory, as attention's kernels keep them: `width` elements a row, of which the head has
// `dim`, and zeros behind. A row is cut into chunks of 16 bytes, which lie within the row in an order that depends on the row:
// products read the same chunk of 8 rows at once (an ldmatrix, or 8 lanes of a vector load), and these 8 must be in different
// banks.
namespace omni_id::cuda {

constexpr int kAttentionThreads = 128;
constexpr int kAttentionWarps = kAttentionThreads / kWarp;
constexpr int kStages = 2;  // tiles of other rows: one that is read and one that is on its way

// Rows of one head in global memory.
template <typename T>
struct HeadRows {
  T* data;
  int64_t stride;  // elements between rows

  __device__ __forceinline__ HeadRows from(int64_t row, int column) const { return {data + row * stride + column, stride}; }
};

template <typename T>
HeadRows<T> head_rows(const TensorView& view) {
  return {view.as<T>(), view.row_stride};
}

// Whether every head's rows can be moved in chunks.
inline bool moves_in_chunks(const TensorView& view, int64_t dim) {
  const int64_t size = static_cast<int64_t>(size_of(view.type.dtype));
  return reinterpret_cast<uintptr_t>(view.data) % kChunkBytes == 0 && view.row_stride * size % kChunkBytes == 0 &&
         dim * size % kChunkBytes == 0;
}

template <typename T, int width>
struct SharedTile {
  static constexpr int kPerChunk = kChunkBytes / sizeof(T);
  static constexpr int kChunks = width / kPerChunk;
  static_assert(kChunks % 8 == 0 || kChunks == 4 || kChunks % 8 == 2, "the order of chunks is for these");

  // 8 chunks are all banks. Rows of a multiple of 8 chunks begin at the same bank, so the chunk's number takes all 8 values of
  // row % 8. Rows of 4 alternate between two banks, rows of 8 n + 2 go through four: what is left to tell apart are 4 pairs of
  // rows, or 2 groups of 4.
  __device__ __forceinline__ static T* chunk(T* tile, int row, int chunk) {
    const int turn = kChunks % 8 == 0 ? row % 8 : kChunks == 4 ? row / 2 % 4 : row / 4 % 2;
    return tile + (row * kChunks + (chunk ^ turn)) * kPerChunk;
  }

  // All threads fetch `count` rows of which `rows` exist; the others become zeros. The caller ends the group of copies, and
  // waits. Operands that cannot be moved in chunks are there after the next barrier.
  template <int count>
  __device__ __forceinline__ static void fetch(T* tile, HeadRows<const T> from, int rows, int dim, bool chunks) {
    const int thread = thread_again();
    if (chunks) {
#pragma unroll
      for (int i = 0; i < (count * kChunks + kAttentionThreads - 1) / kAttentionThreads; ++i) {
        const int at = i * kAttentionThreads + thread, row = at / kChunks, column = at % kChunks * kPerChunk;
        if (count * kChunks % kAttentionThreads != 0 && at >= count * kChunks) break;
        const bool inside = row < rows && column < dim;
        cp_async_16(chunk(tile, row, at % kChunks), inside ? from.data + row * from.stride + column : from.data,
                    inside ? kChunkBytes : 0);
      }
      return;
    }
#pragma unroll 1
    for (int at = thread; at < count * kChunks; at += kAttentionThreads) {
      const int row = at / kChunks, column = at % kChunks * kPerChunk;
      T* to = chunk(tile, row, at % kChunks);
#pragma unroll
      for (int i = 0; i < kPerChunk; ++i) {
        to[i] = row < rows && column + i < dim ? from.data[row * from.stride + column + i] : from_float<T>(0.0f);
      }
    }
  }

  // A warp writes the `count` rows from `first` on, which it owns, as far as `rows` exist.
  template <int count>
  __device__ __forceinline__ static void put(T* tile, int first, HeadRows<T> to, int rows, int dim, bool chunks) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    for (int at = lane; at < count * kChunks; at += kWarp) {
      const int row = first + at / kChunks, column = at % kChunks * kPerChunk;
      if (row >= rows || column >= dim) continue;
      const T* from = chunk(tile, row, at % kChunks);
      T* target = to.data + row * to.stride + column;
      if (chunks) {
        store_vector(target, load_vector<uint4>(from));
      } else {
        for (int i = 0; i < min(kPerChunk, dim - column); ++i) target[i] = from[i];
      }
    }
  }
};

}  // namespace omni_id::cuda
