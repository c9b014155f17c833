#pragma once

#include "cuda/operators/divisor.cuh"
#include "cuda/operators/gemm_epilogue.cuh"
#include "cuda/operators/gemm_tile.cuh"

// The product behind linear, its gradients and the patch embedding: y[i, j] = Σ_l left(i, l) · right(j, l), then an epilogue.
//
// Strategy: a block computes rows × columns of y. Tiles of both operands, 64 bytes deep, travel through a ring of kStages
// buffers in shared memory by cp.async, kStages − 1 of them ahead of the tensor cores; one barrier a tile both hands over the
// oldest and frees the one before it. Each warp holds warp_rows × 32 sums in registers and loads a fragment of an operand once
// for all products with it. Blocks walk down groups of kGroup row tiles, so that those at work at one time share both operands
// in the second-level cache.
//
// Tensor cores cut sums off instead of rounding them: errors have one sign, and over hundreds of steps add up to more than f32
// may have. So they sum few products from zero, 32 depths in bf16 (a tile's two steps) and eight in f32, and these sums are
// added to those of the warp by the ordinary adder, which rounds (Ootomo and Yokota, "Recovering single precision accuracy from
// Tensor Cores", IJHPCA 36, 2022). In bf16 that is two additions a thread for each mma, which run beside it.
//
// bf16 is multiplied by mma.m16n8k16. f32 is cut into the nearest tf32 (11 bits) and the rest (12 bits, of which the tensor
// core takes 11), and multiplied by three mma.m16n8k8: rest · near + near · rest + near · near. What is left out, rest · rest
// and the lowest bit of each rest, is at most 2^-21 of a product: within the rounding of a sum in f32 where there are many, but
// not of few, so that depths below kLeastDepthF32 go to the ordinary multiplier. Infinities become NaN. On A100 and H100 this
// has two and a half times the peak of f32 FMA (156 / 3 against 19.5 TFLOP/s, 495 / 3 against 67); on consumer cards, whose
// tensor cores do no more tf32 than their adders f32, a third of it, and f32 is not what they are for.
//
// Where y has too few tiles to fill a card, the depth is split among blocks, whose sums lie in the workspace and are added in
// order by a second launch, with the epilogue. How it is split depends on the sizes alone, so that sums do not depend on the
// card; which tile is used may, since it does not change the order of any sum.
//
//   tile           threads  warp     stages  shared memory  flops a byte of bf16 operands from L2
//   large 128×128  256      64 × 32  3       48 KiB         64
//   small 64×64    128      32 × 32  4       32 KiB         32: a deeper ring, since less work hides a copy
//
// Registers (sm_80 to sm_120): bf16 128 and 94 to 109, so that two large or three small blocks are at work on a multiprocessor
// of every architecture, and four small ones where there is the shared memory; f32, whose fragments are twice as large, 168 to
// 185 and 97 to 113: one large block, or as many small ones. What ends a ring is hidden by the other blocks only. A tile's
// place is found anew for each fetch, by divisors known at launch (a dozen instructions a tile): kept, it would be spilled in
// bf16.
//
// Bytes: left · (columns / tile) + right · (rows / tile) through L2, once each from memory where the group's share fits there;
// y and the epilogue's operands once. Flops: 2 · rows · columns · depth, three times that on the tensor cores for f32.
namespace omni_id::cuda {

struct LargeTile {
  static constexpr int kRows = 128, kColumns = 128, kWarpRows = 64, kThreads = 256, kStages = 3;
};
struct SmallTile {
  static constexpr int kRows = 64, kColumns = 64, kWarpRows = 32, kThreads = 128, kStages = 4;
};

constexpr int kWarpColumns = 32;
constexpr int kGroup = 8;

// Rows, columns and depth of a product: of what can be reached from a tile's beginning an int holds the number.
constexpr int64_t kLargestExtent = INT32_MAX - 1024;

struct Extent {
  int64_t rows, columns, depth;
  int64_t depth_per_split;  // a multiple of a tile's
  float* partial;           // [splits, rows, partial_stride], or null: the block has the whole sum
  int64_t partial_stride;   // of columns, a multiple of 4
};

// The order in which blocks take tiles: down groups of kGroup rows of tiles, of which the last may have fewer.
struct Walk {
  Divisor group_tiles, last_height;
  int whole_groups;

  Walk(int64_t row_tiles, int64_t column_tiles)
      : group_tiles(kGroup * column_tiles),
        last_height(row_tiles % kGroup == 0 ? kGroup : row_tiles % kGroup),
        whole_groups(static_cast<int>(row_tiles / kGroup)) {}
};

// Of normal operands, one sum in 100,000 of 8 products is off by more than the bound of graph/rounding.h, none in 300,000
// of 16.
constexpr int64_t kLeastDepthF32 = 16;

// A fragment as its mma takes it: f32 in two parts.
template <typename T>
struct Fragment;
template <>
struct Fragment<bf16> {
  uint4 values;
  __device__ __forceinline__ explicit Fragment(uint4 raw) : values(raw) {}
  Fragment() = default;
};
template <>
struct Fragment<float> {
  uint4 near, rest;
  __device__ __forceinline__ explicit Fragment(uint4 raw)
      : near(make_uint4(nearest(raw.x), nearest(raw.y), nearest(raw.z), nearest(raw.w))),
        rest(make_uint4(difference(raw.x, near.x), difference(raw.y, near.y), difference(raw.z, near.z),
                        difference(raw.w, near.w))) {}
  Fragment() = default;

 private:
  static __device__ __forceinline__ unsigned nearest(unsigned bits) { return tf32_from(__uint_as_float(bits)); }
  static __device__ __forceinline__ unsigned difference(unsigned bits, unsigned near) {
    return __float_as_uint(__uint_as_float(bits) - __uint_as_float(near));
  }
};

// Eight columns of a right fragment: the first or the second half.
__device__ __forceinline__ uint2 half_of(uint4 fragment, int half) {
  return half == 0 ? make_uint2(fragment.x, fragment.z) : make_uint2(fragment.y, fragment.w);
}

__device__ __forceinline__ float4 multiply_add(const Fragment<bf16>& left, const Fragment<bf16>& right, int half, float4 part) {
  return mma_bf16(left.values, half_of(right.values, half), part);
}

__device__ __forceinline__ float4 multiply_add(const Fragment<float>& left, const Fragment<float>& right, int half,
                                               float4 part) {
  part = mma_tf32(left.rest, half_of(right.near, half), part);
  part = mma_tf32(left.near, half_of(right.rest, half), part);
  part = mma_tf32(left.near, half_of(right.near, half), part);
  return part;
}

// Where a block's tile of the result begins, and a warp's share in it.
template <typename Tile>
struct Corner {
  int thread, warp_row, warp_column, row, column;

  __device__ __forceinline__ Corner(const Walk& walk, int thread_, int block) : thread(thread_) {
    const int warp = thread / kWarp;
    warp_row = warp / (Tile::kColumns / kWarpColumns) * Tile::kWarpRows;
    warp_column = warp % (Tile::kColumns / kWarpColumns) * kWarpColumns;
    const int group = walk.group_tiles.quotient(block);
    const int in_group = block - group * static_cast<int>(walk.group_tiles.divisor);
    const bool whole = group < walk.whole_groups;
    const int height = whole ? kGroup : static_cast<int>(walk.last_height.divisor);
    const int column_tile = whole ? in_group / kGroup : walk.last_height.quotient(in_group);
    row = (group * kGroup + in_group - column_tile * height) * Tile::kRows;
    column = column_tile * Tile::kColumns;
  }

  // From numbers that the compiler does not know again, so that none of it is kept through a loop full of sums.
  static __device__ __forceinline__ Corner again(const Walk& walk) {
    int block = static_cast<int>(blockIdx.x);
    asm volatile("" : "+r"(block));
    return Corner(walk, thread_again(), block);
  }
};

// 32 × 32 of a warp's sums between registers and the epilogue, which has need of the registers. 40 words a row: the pairs that
// half a warp writes, and the quadruples that eight lanes read, lie in different banks.
constexpr int kSumsRows = 32, kSumsPitch = kWarpColumns + 8;
constexpr int kSumsBytes = kSumsRows * kSumsPitch * static_cast<int>(sizeof(float));

template <typename Tile, typename Left, typename Right>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kThreads == 256 && sizeof(typename Left::Element) == 2 ? 2 : 1)
    gemm_kernel(Left left, Right right, Extent extent, Walk walk, Epilogue epilogue) {
  expect_threads<Tile::kThreads>();
  using T = typename Left::Element;
  using LeftTile = OperandTile<T, Left::contiguous, Tile::kRows>;
  using RightTile = OperandTile<T, Right::contiguous, Tile::kColumns>;
  // Steps that are summed from zero. f32 needs twice the registers for a step's fragments: two at once would not fit.
  constexpr int kTogether = sizeof(T) == 2 ? kSteps : 1;
  constexpr int kStageBytes = LeftTile::kBytes + RightTile::kBytes;
  constexpr int kWarps = Tile::kThreads / kWarp, kRowBlocks = Tile::kWarpRows / 16, kColumnPairs = kWarpColumns / 16;
  static_assert(Tile::kRows / Tile::kWarpRows * (Tile::kColumns / kWarpColumns) == kWarps);
  static_assert(kWarps * kSumsBytes <= Tile::kStages * kStageBytes);
  expect_dynamic_shared<size_t{Tile::kStages} * kStageBytes>();
  unsigned char* const shared = dynamic_shared<unsigned char>();
  const Corner<Tile> corner(walk, static_cast<int>(threadIdx.x), static_cast<int>(blockIdx.x));
  const int first = static_cast<int>(blockIdx.y * extent.depth_per_split);
  const int end = static_cast<int>(min(extent.depth, first + extent.depth_per_split));

  typename Left::template Staging<LeftTile::kChunks / Tile::kThreads> staged_left;
  typename Right::template Staging<RightTile::kChunks / Tile::kThreads> staged_right;
  // Of the tile that begins `rest` before the end of the depth; none where nothing is left.
  const auto fetch = [&](int stage, int rest) {
    if (rest > 0) {
      const Corner<Tile> its = Corner<Tile>::again(walk);
      unsigned char* const to = shared + stage;
      left.template fetch<Tile::kRows, Tile::kThreads>(staged_left, to, its.row, end - rest, end);
      right.template fetch<Tile::kColumns, Tile::kThreads>(staged_right, to + LeftTile::kBytes, its.column, end - rest, end);
    }
    cp_async_commit();  // of nothing too, so that the number of groups is that of tiles
  };
  const auto put = [&](int stage, int rest) {
    if (rest <= 0) return;
    unsigned char* const to = shared + stage;
    left.template put<Tile::kRows, Tile::kThreads>(staged_left, to);
    right.template put<Tile::kColumns, Tile::kThreads>(staged_right, to + LeftTile::kBytes);
  };

  float4 sums[kRowBlocks][2 * kColumnPairs];
#pragma unroll
  for (int i = 0; i < kRowBlocks; ++i) {
#pragma unroll
    for (int j = 0; j < 2 * kColumnPairs; ++j) sums[i][j] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
  constexpr int kAhead = (Tile::kStages - 1) * kTileDepth<T>;
  for (int i = 0; i < Tile::kStages - 1; ++i) {
    fetch(i * kStageBytes, end - first - i * kTileDepth<T>);
    put(i * kStageBytes, end - first - i * kTileDepth<T>);
  }
  int stage = 0;
#pragma unroll 1
  for (int rest = end - first; rest > 0; rest -= kTileDepth<T>) {
    const int before = (stage == 0 ? Tile::kStages * kStageBytes : stage) - kStageBytes;
    cp_async_wait<Tile::kStages - 2>();
    // The stage's tile is there for all, and all have read the one before, whose buffer the next fetch fills.
    __syncthreads();
    fetch(before, rest - kAhead);
    const unsigned char* const at = shared + stage;
#pragma unroll 1
    for (int step = 0; step < kSteps; step += kTogether) {
      Fragment<T> of_right[kColumnPairs][kTogether];
#pragma unroll
      for (int j = 0; j < kColumnPairs * kTogether; ++j) {
        const int pair = j / kTogether, s = j % kTogether;
        of_right[pair][s] = Fragment<T>(RightTile::fragment(at + LeftTile::kBytes, corner.warp_column + 16 * pair, step + s));
      }
#pragma unroll
      for (int i = 0; i < kRowBlocks; ++i) {
        Fragment<T> of_left[kTogether];
#pragma unroll
        for (int s = 0; s < kTogether; ++s)
          of_left[s] = Fragment<T>(LeftTile::fragment(at, corner.warp_row + 16 * i, step + s));
#pragma unroll
        for (int j = 0; j < 2 * kColumnPairs; ++j) {
          float4 part = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
          for (int s = 0; s < kTogether; ++s) part = multiply_add(of_left[s], of_right[j / 2][s], j % 2, part);
          sums[i][j] = sum_of(sums[i][j], part);
        }
      }
    }
    put(before, rest - kAhead);
    stage = stage == (Tile::kStages - 1) * kStageBytes ? 0 : stage + kStageBytes;
  }
  cp_async_wait<0>();
  __syncthreads();

  // From here on a warp has its own piece of shared memory. Its place is found anew: the sums leave no registers to keep it in.
  const Corner<Tile> again = Corner<Tile>::again(walk);
  const int lane = again.thread % kWarp;
  float* const staged = reinterpret_cast<float*>(shared + again.thread / kWarp * kSumsBytes);
  const int64_t column = int64_t{again.column} + again.warp_column + lane % 8 * 4;
#pragma unroll
  for (int first_row = 0; first_row < Tile::kWarpRows; first_row += kSumsRows) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kSumsRows / 16; ++i) {
#pragma unroll
      for (int j = 0; j < 2 * kColumnPairs; ++j) {
        const float4 v = sums[first_row / 16 + i][j];
        float* const to = staged + (16 * i + lane / 4) * kSumsPitch + 8 * j + lane % 4 * 2;
        store_vector(to, make_float2(v.x, v.y));
        store_vector(to + 8 * kSumsPitch, make_float2(v.z, v.w));
      }
    }
    __syncwarp();
#pragma unroll 1
    for (int in_block = lane / 8; in_block < kSumsRows; in_block += 4) {
      const int64_t row = int64_t{again.row} + again.warp_row + first_row + in_block;
      if (row >= extent.rows || column >= extent.columns) continue;
      const float4 v = load_vector<float4>(staged + in_block * kSumsPitch + lane % 8 * 4);
      if (extent.partial) {
        store_vector(extent.partial + (int64_t{blockIdx.y} * extent.rows + row) * extent.partial_stride + column, v);
      } else {
        finish(epilogue, row, column, v);
      }
    }
  }
}

// What follows works on single elements: four neighbouring columns a thread, a warp on 128 columns of a row, a block on as
// many rows as it has warps, along y of the grid.
constexpr int kElementThreads = 256;
constexpr int kElementRows = kElementThreads / kWarp, kElementColumns = 4 * kWarp;

// A product of little depth in f32, by the ordinary multiplier. The result's bytes, or the epilogue's, are what it takes.
template <typename Left, typename Right>
__global__ void __launch_bounds__(kElementThreads) thin_kernel(Left left, Right right, int depth, Epilogue epilogue) {
  expect_threads<kElementThreads>();
  const int64_t column = int64_t{blockIdx.x} * kElementColumns + threadIdx.x % kWarp * 4, last = epilogue.columns - 1;
  if (column > last) return;
  for (int64_t row = int64_t{blockIdx.y} * kElementRows + threadIdx.x / kWarp; row < epilogue.rows;
       row += int64_t{gridDim.y} * kElementRows) {
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int i = 0; i < depth; ++i) {
      const float factor = left.value(row, i);
      v.x = fmaf(factor, right.value(column, i), v.x);
      v.y = fmaf(factor, right.value(min(column + 1, last), i), v.y);
      v.z = fmaf(factor, right.value(min(column + 2, last), i), v.z);
      v.w = fmaf(factor, right.value(min(column + 3, last), i), v.w);
    }
    finish(epilogue, row, column, v);
  }
}

// The splits' sums together. Reads splits · rows · columns values.
template <int threads>
__global__ void __launch_bounds__(threads)
    add_splits_kernel(const float* partial, int64_t stride, int splits, Epilogue epilogue) {
  expect_threads<threads>();
  const int64_t column = int64_t{blockIdx.x} * kElementColumns + threadIdx.x % kWarp * 4;
  if (column >= epilogue.columns) return;
  for (int64_t row = int64_t{blockIdx.y} * kElementRows + threadIdx.x / kWarp; row < epilogue.rows;
       row += int64_t{gridDim.y} * kElementRows) {
    float4 v = load_vector<float4>(partial + row * stride + column);
#pragma unroll 1  // several splits' loads at once were spilled
    for (int split = 1; split < splits; ++split) {
      v = sum_of(v, load_vector<float4>(partial + (int64_t{split} * epilogue.rows + row) * stride + column));
    }
    finish(epilogue, row, column, v);
  }
}

}  // namespace omni_id::cuda
