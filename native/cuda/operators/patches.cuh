#pragma once

#include "cuda/operators/launching.h"

// What gathers and scatters of patches share: which patches of an image are visible, and whose row is a patch's.
//
// Every element of a result is one thread's, so that nothing is added atomically and the order of a sum depends on sizes alone.
// Where the result is larger than what is visible, a warp asks for each patch which row is its own: it reads its image's K
// indices 32 at a time and votes (`row_of`), K / 32 steps that stay in the first-level cache, and cheaper than a kernel of its
// own that turns the indices round.
namespace omni_id::cuda {

inline constexpr int kPatchThreads = 256;
inline constexpr int kPatchWarps = kPatchThreads / kWarp;

// The patches that are visible in each image, and where to complain of those that no image has.
struct Visible {
  const int32_t* patches;  // null: all, in their order
  int per_image;           // K
  int* complaints;
  int complaint;

  __device__ void complain() const { atomicOr(complaints, complaint); }
};

// The number k of the first of an image's rows that holds `patch`, or −1; by a whole warp, the same in all of its lanes.
// `others`: whether there are more.
__device__ __forceinline__ int row_of(const Visible& visible, const int32_t* of_image, int patch, bool* others) {
  const int lane = threadIdx.x % kWarp;
  int first = -1;
  *others = false;
  for (int base = 0; base < visible.per_image; base += kWarp) {
    const int k = base + lane;
    const unsigned found = __ballot_sync(kFullMask, k < visible.per_image && of_image[k] == patch);
    if (found == 0) continue;
    *others = *others || first >= 0 || (found & (found - 1)) != 0;
    if (first < 0) first = base + __ffs(static_cast<int>(found)) - 1;
  }
  return first;
}

// By one warp for each image: whether all of its indices are those of patches.
__device__ __forceinline__ void check_range(const Visible& visible, const int32_t* of_image, int patches) {
  for (int k = threadIdx.x % kWarp; k < visible.per_image; k += kWarp) {
    if (of_image[k] < 0 || of_image[k] >= patches) visible.complain();
  }
}

// Indices into what a kernel walks through with 32 bits.
inline int checked_int(int64_t n, const char* op, const char* what) {
  require(n <= INT32_MAX, op, std::to_string(n) + " " + what + ", at most 2,147,483,647 on CUDA");
  return static_cast<int>(n);
}

class PatchKernel : public CudaKernel {
 protected:
  PatchKernel(const OperatorRow& row, CudaDevice& device, int64_t visible_per_image, const char* must_hold)
      : CudaKernel(row, device),
        per_image_(checked_int(visible_per_image, row.name, "visible patches of an image")),
        complaint_(device.complaint(std::string(row.name) + ": " + must_hold)) {}

  Visible visible(const TensorView& view) const {
    return {view.as<const int32_t>(), per_image_, device().complaints(), complaint_};
  }

  int per_image_, complaint_;
};

}  // namespace omni_id::cuda
