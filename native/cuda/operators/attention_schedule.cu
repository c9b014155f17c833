// The list of attention's tiles, from offsets i32[sequences + 1] of own and of other rows: for each sequence in turn its own
// rows in tiles of `tile_rows`, {first row, rows, first other row, other rows}, and zeros up to the list's end.
//
// Strategy: one block. All offsets are checked first, and when they do not rise from 0 to the rows that there are, the list is
// zeros only: no kernel that works by the list can then leave its operands, or write what another block writes. A thread counts
// the tiles of one sequence; an inclusive sum over the warp by shuffles and over the warps through shared memory (4 bytes a
// warp) says where they go. Sequences beyond kThreads take further rounds, of about a microsecond each.
// Registers: at most 40. Cost: 8 bytes read a sequence, 16 written a tile. A block of attention then finds its rows by one load
// of 16 bytes, instead of a search in the offsets, and the blocks without work are fewer than the sequences.
#include "cuda/operators/attention_schedule.cuh"

namespace omni_id::cuda {

namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;

__device__ __forceinline__ bool rises(const int* offsets, int at) { return offsets[at] <= offsets[at + 1]; }

__global__ void __launch_bounds__(kThreads)
    schedule_kernel(const int* own, const int* other, int sequences, int own_rows, int other_rows, int tile_rows, int tiles,
                    uint4* list, int* complaints, int complaint) {
  expect_threads<kThreads>();
  OMNI_ID_SHARED(int, totals, kWarps);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  bool good = own[0] == 0 && own[sequences] == own_rows && other[0] == 0 && other[sequences] == other_rows;
  for (int s = thread; s < sequences; s += kThreads) good = good && rises(own, s) && rises(other, s);
  const bool bad = __syncthreads_or(!good) != 0;
  if (bad && thread == 0) atomicOr(complaints, complaint);

  int start = 0;  // tiles of the rounds before
  for (int first = 0; first < (bad ? 0 : sequences); first += kThreads) {
    const int s = first + thread;
    const bool inside = s < sequences;
    const int begin = inside ? own[s] : 0, rows = inside ? own[s + 1] - begin : 0;
    const int count = rows / tile_rows + (rows % tile_rows != 0);
    int until = count;
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int before = __shfl_up_sync(kFullMask, until, offset);
      if (lane >= offset) until += before;
    }
    if (lane == kWarp - 1) totals[warp] = until;
    __syncthreads();
    int at = start + until - count;
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) at += totals[w];
      start += totals[w];
    }
    __syncthreads();
    if (count == 0) continue;
    const int other_begin = other[s], others = other[s + 1] - other_begin;
    for (int tile = 0; tile < count; ++tile) {
      const int row = tile * tile_rows;
      store_vector(list + at + tile,
                   make_uint4(static_cast<unsigned>(begin + row), static_cast<unsigned>(min(rows - row, tile_rows)),
                              static_cast<unsigned>(other_begin), static_cast<unsigned>(others)));
    }
  }
  for (int tile = start + thread; tile < tiles; tile += kThreads) store_vector(list + tile, make_uint4(0, 0, 0, 0));
}

}  // namespace

int64_t Sequences::tiles() const {
  // Each sequence that has rows begins at most one tile that is not full.
  if (ragged_) return own_rows_ / tile_rows_ + std::min(sequences_, own_rows_);
  return sequences_ * divided_up(own_rows_ / sequences_, tile_rows_);
}

Schedule Sequences::enqueue(const Stream& stream, const TensorView& own_offsets, const TensorView& other_offsets,
                            std::byte* workspace, int* complaints, int complaint) const {
  Schedule schedule{};
  schedule.tiles = static_cast<unsigned>(tiles());
  schedule.tile_rows = static_cast<unsigned>(tile_rows_);
  if (ragged_) {
    uint4* list = reinterpret_cast<uint4*>(workspace);
    schedule.list = list;
    launch<schedule_kernel>(stream, dim3(1), kThreads, 0, own_offsets.as<const int>(), other_offsets.as<const int>(),
                            static_cast<int>(sequences_), static_cast<int>(own_rows_), static_cast<int>(other_rows_),
                            tile_rows_, static_cast<int>(tiles()), list, complaints, complaint);
  } else {
    schedule.own_length = own_rows_ / sequences_;
    schedule.other_length = other_rows_ / sequences_;
    schedule.tiles_of_sequence = static_cast<unsigned>(divided_up(schedule.own_length, tile_rows_));
  }
  return schedule;
}

}  // namespace omni_id::cuda
