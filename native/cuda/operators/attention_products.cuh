#pragma once

#include "cuda/operators/attention_tiles.cuh"

// The two products of attention on tiles in shared memory, a warp's share: its own rows against a tile of other rows,
//   scores = own · otherᵀ     and     sums += weights · other,
// where the weights are scores that have been changed in place. Scores and sums stay in registers between the products, as
// float[kRows][…] of each thread; row_of and column_of say which. The kernels are written once over these two types:
//
// - Bf16Products: tensor cores, m16n8k16 with f32 accumulation. What an mma gives is, packed to bf16, what the next takes
//   as its left operand, so weights go from one product to the other without leaving the thread.
// - F32Products: fused multiply-adds on 4 × 4 (4 × 2) scores a thread. Three tf32 products for one of f32 would be faster where
//   tensor cores are wide (A100 156 / 3 = 52 against 19.5 TFLOP/s, H100 165 against 67) and slower where they are not (RTX 4090
//   27 against 82). What decides is the bound: tensor cores add to their accumulator by cutting off, not by rounding, so that
//   the error of a sum of positive weights grows with its length and not with the length's root, as the reference's bound for
//   f32 does.
namespace omni_id::cuda {

// row_tiles: tiles of 16 rows that a warp owns. With two, each fragment of the other rows serves two mma: 128 bytes of shared
// memory an mma instead of 256, which take an SM 1 cycle, where the mma takes 2 (A100).
template <int width_, int row_tiles, int others_>
struct Bf16Products {
  using T = bf16;
  static constexpr int kWidth = width_, kOthers = others_;
  static constexpr int kWarpRows = 16 * row_tiles, kRows = 2 * row_tiles;
  static constexpr int kLanesOfRow = 4;        // that share a row
  static constexpr int kScores = kOthers / 4;  // a thread's in one row
  static constexpr int kSums = kWidth / 4;
  using Tile = SharedTile<T, kWidth>;
  using Scores = float[kRows][kScores];
  using Sums = float[kRows][kSums];

  __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  __device__ __forceinline__ static int row_of(int i) { return lane() / 4 + 8 * i; }
  __device__ __forceinline__ static int column_of(int j) { return lane() % 4 * 2 + j / 2 * 8 + j % 2; }

  template <int columns>
  __device__ __forceinline__ static void multiply_add(float (&d)[kRows][columns], int row_tile, int column_tile, uint4 a,
                                                      unsigned b0, unsigned b1) {
    float *upper = d[2 * row_tile] + 2 * column_tile, *lower = d[2 * row_tile + 1] + 2 * column_tile;
    const float4 r = mma_bf16(a, make_uint2(b0, b1), make_float4(upper[0], upper[1], lower[0], lower[1]));
    upper[0] = r.x, upper[1] = r.y, lower[0] = r.z, lower[1] = r.w;
  }

  __device__ __forceinline__ static void multiply(Scores& scores, T* own, int first_row, T* other) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kScores; ++j) scores[i][j] = 0.0f;
    }
    const int lane = thread_again() % kWarp, row = lane % 8, matrix = lane / 8;
#pragma unroll
    for (int k = 0; k < kWidth / 16; ++k) {
      uint4 a[row_tiles];
#pragma unroll
      for (int m = 0; m < row_tiles; ++m) {
        a[m] = ldmatrix_x4(Tile::chunk(own, first_row + 16 * m + matrix % 2 * 8 + row, 2 * k + matrix / 2));
      }
#pragma unroll
      for (int n = 0; n < kOthers / 16; ++n) {
        const uint4 b = ldmatrix_x4(Tile::chunk(other, 16 * n + matrix / 2 * 8 + row, 2 * k + matrix % 2));
#pragma unroll
        for (int m = 0; m < row_tiles; ++m) {
          multiply_add(scores, m, 2 * n, a[m], b.x, b.y);
          multiply_add(scores, m, 2 * n + 1, a[m], b.z, b.w);
        }
      }
    }
  }

  __device__ __forceinline__ static void accumulate(Sums& sums, const Scores& weights, T* other) {
    const int lane = thread_again() % kWarp, row = lane % 8, matrix = lane / 8;
#pragma unroll
    for (int k = 0; k < kOthers / 16; ++k) {
      uint4 a[row_tiles];
#pragma unroll
      for (int m = 0; m < row_tiles; ++m) {
        const float *upper = weights[2 * m] + 4 * k, *lower = weights[2 * m + 1] + 4 * k;
        a[m] = make_uint4(pack_bf16(upper[0], upper[1]), pack_bf16(lower[0], lower[1]), pack_bf16(upper[2], upper[3]),
                          pack_bf16(lower[2], lower[3]));
      }
#pragma unroll
      for (int n = 0; n < kWidth / 16; ++n) {
        const uint4 b = ldmatrix_x4_transposed(Tile::chunk(other, 16 * k + matrix % 2 * 8 + row, 2 * n + matrix / 2));
#pragma unroll
        for (int m = 0; m < row_tiles; ++m) {
          multiply_add(sums, m, 2 * n, a[m], b.x, b.y);
          multiply_add(sums, m, 2 * n + 1, a[m], b.z, b.w);
        }
      }
    }
  }

  // factor[i] · sums[i] into the warp's rows of a tile.
  __device__ __forceinline__ static void put(T* tile, int first_row, const Sums& sums, const float (&factor)[kRows]) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n) {
        T* to = Tile::chunk(tile, first_row + row_of(i), n) + lane() % 4 * 2;
        *reinterpret_cast<unsigned*>(to) = pack_bf16(sums[i][2 * n] * factor[i], sums[i][2 * n + 1] * factor[i]);
      }
    }
  }
};

// A warp's lanes are 4 × 8: own rows along the first, other rows (columns of the sums) along the second. For 4 columns of a row
// of scores, 8 vector loads that each touch the banks once serve 64 multiply-adds a thread.
template <int width_, int others_>
struct F32Products {
  using T = float;
  static constexpr int kWidth = width_, kOthers = others_;
  static constexpr int kWarpRows = 16, kRows = 4;
  static constexpr int kLanesOfRow = 8;
  static constexpr int kScores = kOthers / 8;
  static constexpr int kSums = kWidth / 8;
  using Tile = SharedTile<T, kWidth>;
  using Scores = float[kRows][kScores];
  using Sums = float[kRows][kSums];

  __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  __device__ __forceinline__ static int row_of(int i) { return lane() / 8 + 4 * i; }
  __device__ __forceinline__ static int column_of(int j) { return lane() % 8 + 8 * j; }

  __device__ __forceinline__ static void multiply(Scores& scores, T* own, int first_row, T* other) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kScores; ++j) scores[i][j] = 0.0f;
    }
#pragma unroll 2
    for (int chunk = 0; chunk < Tile::kChunks; ++chunk) {
      float4 a[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) a[i] = load_vector<float4>(Tile::chunk(own, first_row + row_of(i), chunk));
#pragma unroll
      for (int j = 0; j < kScores; ++j) {
        const float4 b = load_vector<float4>(Tile::chunk(other, column_of(j), chunk));
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          scores[i][j] += a[i].x * b.x;
          scores[i][j] += a[i].y * b.y;
          scores[i][j] += a[i].z * b.z;
          scores[i][j] += a[i].w * b.w;
        }
      }
    }
  }

  // A weight is fetched from the lane that made it.
  __device__ __forceinline__ static void accumulate(Sums& sums, const Scores& weights, T* other) {
    const int column = lane() % 8, first_lane = lane() - column;
#pragma unroll
    for (int j = 0; j < kScores; ++j) {
#pragma unroll 4
      for (int k = 0; k < 8; ++k) {
        float weight[kRows];
#pragma unroll
        for (int i = 0; i < kRows; ++i) weight[i] = __shfl_sync(kFullMask, weights[i][j], first_lane + k);
#pragma unroll
        for (int n = 0; n < kWidth / 32; ++n) {
          const float4 b = load_vector<float4>(Tile::chunk(other, 8 * j + k, 8 * n + column));
#pragma unroll
          for (int i = 0; i < kRows; ++i) {
            float* sum = sums[i] + 4 * n;
            sum[0] += weight[i] * b.x;
            sum[1] += weight[i] * b.y;
            sum[2] += weight[i] * b.z;
            sum[3] += weight[i] * b.w;
          }
        }
      }
    }
  }

  __device__ __forceinline__ static void put(T* tile, int first_row, const Sums& sums, const float (&factor)[kRows]) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int n = 0; n < kWidth / 32; ++n) {
        const float* sum = sums[i] + 4 * n;
        store_vector(Tile::chunk(tile, first_row + row_of(i), 8 * n + lane() % 8),
                     make_float4(sum[0] * factor[i], sum[1] * factor[i], sum[2] * factor[i], sum[3] * factor[i]));
      }
    }
  }
};

// The sum or the largest over the lanes that share a row, in all of them.
template <typename Products>
__device__ __forceinline__ float row_sum(float x) {
#pragma unroll
  for (int offset = 1; offset < Products::kLanesOfRow; offset *= 2) x += __shfl_xor_sync(kFullMask, x, offset);
  return x;
}
template <typename Products>
__device__ __forceinline__ float row_maximum(float x) {
#pragma unroll
  for (int offset = 1; offset < Products::kLanesOfRow; offset *= 2) x = fmaxf(x, __shfl_xor_sync(kFullMask, x, offset));
  return x;
}

// Wider heads have no kernel.
inline void require_head_width(const char* op, int64_t dim) {
  constexpr int64_t kWidest = 128;
  require(dim <= kWidest, op,
          "heads are " + std::to_string(dim) + " columns wide, expected at most " + std::to_string(kWidest) + " on CUDA");
}

// body(products) with the narrowest that hold a head of `dim` columns. Models have 64 (the encoder), 80 (ViT-H) and 128 (FLUX);
// f32 comes in steps of 32. The tiles of other rows are as high as two blocks fit an SM with 100 KB of shared memory (8.6, 8.9,
// 12.0) and, in bf16, as the registers allow; of heads of 128 (in the gradient of f32: above 64) one does. row_tiles is 2 in
// attention, and 1 in its gradient, which owns two tiles of rows instead of one.
template <int row_tiles, typename Body>
void with_products(DType dtype, int64_t dim, Body&& body) {
  if (dtype == DType::bf16) {
    if (dim <= 32) return body(Bf16Products<32, row_tiles, 64>{});
    if (dim <= 64) return body(Bf16Products<64, row_tiles, 64>{});
    if (dim <= 80) return body(Bf16Products<80, row_tiles, 32>{});
    return body(Bf16Products<128, row_tiles, 32>{});
  }
  if (dim <= 32) return body(F32Products<32, 32>{});
  if (dim <= 64) return body(F32Products<64, 16 * row_tiles>{});
  if (dim <= 96) return body(F32Products<96, 16>{});
  return body(F32Products<128, 16>{});
}

}  // namespace omni_id::cuda
