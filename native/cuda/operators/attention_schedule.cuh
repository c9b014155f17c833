#pragma once

#include "cuda/operators/launching.h"

// Which rows of which sequence a block of attention works on. A block owns a tile of rows of one sequence and one head
// (queries, or keys for the gradients of keys and values) and meets all of the sequence's other rows (keys, or queries).
namespace omni_id::cuda {

// A tile: rows [own, own + rows) against rows [other, other + others). Without rows there is nothing to do.
struct Piece {
  int64_t own, other;
  int rows, others;
};

// The grid has one block for each tile and head, tiles first, so that the blocks that read the same other rows run together.
struct Schedule {
  const uint4* list;                 // own, rows, other, others of each tile; null for sequences of equal lengths
  int64_t own_length, other_length;  // of every sequence then
  unsigned tiles, tiles_of_sequence, tile_rows;

  __device__ __forceinline__ int head() const { return static_cast<int>(blockIdx.x / tiles); }

  __device__ __forceinline__ Piece piece() const {
    const unsigned tile = blockIdx.x % tiles;
    if (list) {
      const uint4 at = load_vector<uint4>(list + tile);
      return {static_cast<int64_t>(at.x), static_cast<int64_t>(at.z), static_cast<int>(at.y), static_cast<int>(at.w)};
    }
    const int64_t sequence = tile / tiles_of_sequence, first = int64_t{tile % tiles_of_sequence} * tile_rows;
    return {sequence * own_length + first, sequence * other_length,
            static_cast<int>(min(own_length - first, static_cast<int64_t>(tile_rows))), static_cast<int>(other_length)};
  }
};

// Sequences as an operator is given them, cut into tiles of their own rows.
class Sequences {
 public:
  Sequences(int64_t sequences, int64_t own_rows, int64_t other_rows, bool ragged, int tile_rows)
      : sequences_(sequences), own_rows_(own_rows), other_rows_(other_rows), ragged_(ragged), tile_rows_(tile_rows) {}

  // Tiles that offsets may ask for at most: they lie on the device, and a grid is built from sizes alone.
  int64_t tiles() const;
  // Room for the list of tiles.
  size_t workspace_bytes() const { return ragged_ ? static_cast<size_t>(tiles()) * sizeof(uint4) : 0; }
  // Of ragged sequences, has the list made from the offsets; what is wrong with these is told by the bit `complaint`.
  Schedule enqueue(const Stream& stream, const TensorView& own_offsets, const TensorView& other_offsets, std::byte* workspace,
                   int* complaints, int complaint) const;

 private:
  int64_t sequences_, own_rows_, other_rows_;
  bool ragged_;
  int tile_rows_;
};

}  // namespace omni_id::cuda
