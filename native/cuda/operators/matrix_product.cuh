#pragma once

#include <type_traits>

#include "cuda/operators/gemm.cuh"
#include "cuda/operators/launching.h"

// The host's side of gemm.cuh: how a product is cut, and operands in the type that it is computed in.
namespace omni_id::cuda {

constexpr size_t kWorkspaceAlignment = 64;

inline size_t aligned(size_t bytes) {
  return divided_up(static_cast<int64_t>(bytes), kWorkspaceAlignment) * kWorkspaceAlignment;
}

// Whether rows of a matrix can be read in pieces of `bytes`.
inline bool allows(int64_t bytes, const void* data, int64_t stride, size_t size) {
  return (reinterpret_cast<uintptr_t>(data) | static_cast<uintptr_t>(stride) * size) % static_cast<uintptr_t>(bytes) == 0;
}

inline Activation activation_named(const std::string& name) {
  Activation activation = Activation::none;
  with_activation(name, [&]<typename A>(A) { activation = A::value; });
  return activation;
}

constexpr int kConversionThreads = 256;

// to = activation(from), rounded; four neighbouring columns a thread. Reads and writes each value once.
template <typename From, typename To>
__global__ void __launch_bounds__(kConversionThreads)
    convert_kernel(const From* from, int64_t from_stride, To* to, int64_t to_stride, int64_t rows, int64_t columns,
                   Activation activation, bool vectors) {
  expect_threads<kConversionThreads>();
  const int64_t column = (int64_t{blockIdx.x} * kConversionThreads + threadIdx.x) * 4;
  if (column >= columns) return;
  const int count = static_cast<int>(min(columns - column, int64_t{4}));
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const float4 v = load_columns(from + row * from_stride + column, count, vectors);
    store_columns(to + row * to_stride + column, activated(activation, v), count, true);
  }
}

// An operand as the kernel reads it.
struct ReadyOperand {
  const std::byte* data;
  int64_t stride;
};

// An operand in the type of its product: as it is, or converted once into the workspace, with its activation. A tile could be
// converted on its way instead, but every column of tiles would do it anew, out of registers that the sums need, and without
// asynchronous copies; the pass reads the matrix once and leaves half of it in bf16 to be read by all of them.
class Operand {
 public:
  // A matrix [rows, columns]; a weight of more dimensions lies in one piece.
  Operand(const TensorType& type, DType product, Activation activation = Activation::none)
      : from_(type.dtype),
        to_(product),
        activation_(activation),
        rows_(type.shape.empty() ? 1 : type.shape[0]),
        columns_(rows_ == 0 ? type.columns() : type.elements() / rows_),
        is_matrix_(type.shape.size() == 2) {}

  size_t workspace_bytes() const { return converts() ? aligned(static_cast<size_t>(rows_ * stride()) * size_of(to_)) : 0; }

  ReadyOperand ready(const Stream& stream, const TensorView& view, std::byte* workspace) const {
    const int64_t from_stride = is_matrix_ ? view.row_stride : columns_;
    if (!converts()) return {view.data, from_stride};
    const dim3 grid(blocks_for(columns_, 4 * kConversionThreads), along_yz(rows_));
    with_type(from_, [&]<typename From>(From) {
      with_type(to_, [&]<typename To>(To) {
        launch<convert_kernel<From, To>>(stream, grid, kConversionThreads, 0, view.as<const From>(), from_stride,
                                         reinterpret_cast<To*>(workspace), stride(), rows_, columns_, activation_,
                                         allows(4 * sizeof(From), view.data, from_stride, sizeof(From)));
      });
    });
    return {workspace, stride()};
  }

 private:
  bool converts() const { return from_ != to_ || activation_ != Activation::none; }
  int64_t stride() const { return divided_up(columns_, 8) * 8; }  // rows begin at 16 bytes in either type

  DType from_, to_;
  Activation activation_;
  int64_t rows_, columns_;
  bool is_matrix_;
};

// A matrix in memory as an operand of `rows` rows.
template <typename T, Contiguous contiguous>
MatrixOperand<T, contiguous> operand(const ReadyOperand& ready, int64_t rows) {
  const int64_t stride = ready.stride;
  const int unit = allows(16, ready.data, stride, sizeof(T)) ? 16 : allows(4, ready.data, stride, sizeof(T)) ? 4 : 2;
  return {reinterpret_cast<const T*>(ready.data), stride, static_cast<int>(rows), unit};
}

// One product, cut for a card of `multiprocessors`.
class MatrixProduct {
 public:
  MatrixProduct(int64_t rows, int64_t columns, int64_t depth, int multiprocessors)
      : extent_{rows, columns, depth, 0, nullptr, 0} {
    require(std::max({rows, columns, depth}) <= kLargestExtent, "a product", "rows, columns and depth must be below 2^31");
    const int64_t small_tiles = tiles<SmallTile>();
    if (small_tiles > 0)
      splits_ = std::clamp<int64_t>(kWantedTiles / small_tiles, 1, std::max<int64_t>(1, depth / kLeastDepth));
    extent_.depth_per_split = divided_up(divided_up(depth, splits_), kGranule) * kGranule;
    splits_ = divided_up(depth, extent_.depth_per_split);
    extent_.partial_stride = divided_up(columns, 4) * 4;
    large_ = tiles<LargeTile>() * splits_ >= multiprocessors;
  }

  size_t workspace_bytes() const {
    return splits_ == 1 ? 0 : aligned(static_cast<size_t>(splits_ * extent_.rows * extent_.partial_stride) * sizeof(float));
  }

  // The epilogue without sizes. `workspace` holds workspace_bytes.
  template <typename Left, typename Right>
  void multiply(const Stream& stream, const Left& left, const Right& right, Epilogue epilogue, std::byte* workspace) const {
    if (large_) {
      multiply_by<LargeTile>(stream, left, right, epilogue, workspace);
    } else {
      multiply_by<SmallTile>(stream, left, right, epilogue, workspace);
    }
  }

  template <typename Tile, typename Left, typename Right>
  void multiply_by(const Stream& stream, const Left& left, const Right& right, Epilogue epilogue, std::byte* workspace) const {
    constexpr size_t kSharedBytes = size_t{Tile::kStages} * (Tile::kRows + Tile::kColumns) * kDepthBytes;
    static_assert(kSharedBytes <= size_t{48} << 10);  // more would have to be asked for
    Extent extent = extent_;
    epilogue.rows = extent.rows;
    epilogue.columns = extent.columns;
    const dim3 element_blocks(blocks_for(extent.columns, kElementColumns), along_yz(divided_up(extent.rows, kElementRows)));
    if constexpr (std::is_same_v<typename Left::Element, float>) {
      if (extent.depth < kLeastDepthF32) {
        launch<thin_kernel<Left, Right>>(stream, element_blocks, kElementThreads, 0, left, right,
                                         static_cast<int>(extent.depth), epilogue);
        return;
      }
    }
    const Walk walk(divided_up(extent.rows, Tile::kRows), divided_up(extent.columns, Tile::kColumns));
    if (splits_ > 1) extent.partial = reinterpret_cast<float*>(workspace);
    launch<gemm_kernel<Tile, Left, Right>>(stream, dim3(static_cast<unsigned>(tiles<Tile>()), static_cast<unsigned>(splits_)),
                                           Tile::kThreads, kSharedBytes, left, right, extent, walk, epilogue);
    if (splits_ == 1) return;
    launch<add_splits_kernel<kElementThreads>>(stream, element_blocks, kElementThreads, 0, extent.partial,
                                               extent.partial_stride, static_cast<int>(splits_), epilogue);
  }

 private:
  // Two large tiles, or eight small ones, for each of the 108 to 132 multiprocessors of A100 and H100, when the depth of each
  // split still hides what the second launch costs.
  static constexpr int64_t kWantedTiles = 1024, kLeastDepth = 512;
  static constexpr int64_t kGranule = kTileDepth<bf16>;

  template <typename Tile>
  int64_t tiles() const {
    return divided_up(extent_.rows, Tile::kRows) * divided_up(extent_.columns, Tile::kColumns);
  }

  Extent extent_;
  int64_t splits_ = 1;
  bool large_ = false;
};

}  // namespace omni_id::cuda
