// attention: out = softmax(scale · q · kᵀ) · v for every sequence and head, and logsumexp; shapes and offsets are in
// native/operators/attention.cpp.
//
// Strategy: a block takes a tile of queries of one sequence and head (attention_schedule.cuh) and goes through the sequence's
// keys in tiles of kOthers, with an online softmax: per query the largest score so far, and the sums of the weights and of the
// weighted values relative to it, which are rescaled when a larger score comes. Scores exist in registers only
// (attention_products.cuh). While one tile of keys and values is worked on, cp.async brings the next; one barrier a tile says
// both that this one has arrived and that the other's place is free. Warps share nothing but these tiles: each owns rows of
// queries, from the first product to the output, and one whose rows all lie behind the sequence's end only fetches. Weights are
// 2^(scale · log2(e) · score − shift), one multiply-add and one ex2 each; as on the CPU they are summed in f32 and multiplied
// in the operands' type.
//
// Block: 4 warps, two blocks an SM. bf16: 128 queries, 32 a warp, against 64 keys (32 from 65 columns on). f32: 64 queries
// against 32 keys (16 from 65 columns on). Shared memory: the queries and two stages of keys and values; for heads of up to
//   bf16:  32: 24 KB, 64: 48 KB, 80: 40 KB, 128: 64 KB     f32:  32: 24 KB, 64: 48 KB, 96: 48 KB, 128: 64 KB
// Registers (sm_80 to sm_120): bf16 156 to 255, f32 128 to 168.
//
// Cost: 4 · queries · keys · dim flops and queries · keys powers a head; reads q and writes out once, k and v once for each
// tile of queries, of which all but the first come from the second-level cache. At 257 queries and keys in bf16 that is 128
// flops a byte of the first reading: bound by the tensor cores only where the cache holds k and v. They are three tiles, of
// which the last keeps one warp busy, for one row: 12 % of the products are for nothing. With tiles of 64 queries it would be
// 6 %, and every product would read twice the shared memory.
#include <cmath>

#include "cuda/operators/attention_products.cuh"
#include "cuda/operators/attention_schedule.cuh"

namespace omni_id::cuda {

namespace {

template <typename T>
struct Operands {
  HeadRows<const T> q, k, v;
  HeadRows<T> out;
  float* logsumexp;  // null where it is not asked for
  int64_t logsumexp_stride;
  int dim;
  float scale;  // of scores, for powers of two
  bool chunks;
};

template <typename Products>
struct Layout {
  static constexpr int kQueries = kAttentionWarps * Products::kWarpRows;
  static constexpr int kOwn = kQueries * Products::kWidth, kOther = Products::kOthers * Products::kWidth;  // elements
  static constexpr size_t kBytes = (kOwn + kStages * 2 * kOther) * sizeof(typename Products::T);
};

template <typename Products>
__global__ void __launch_bounds__(kAttentionThreads, 2)
    attention_kernel(Operands<typename Products::T> given, Schedule schedule) {
  expect_threads<kAttentionThreads>();
  using T = typename Products::T;
  using Tile = typename Products::Tile;
  constexpr int kRows = Products::kRows, kKeys = Products::kOthers;
  expect_dynamic_shared<Layout<Products>::kBytes>();
  const Piece piece = schedule.piece();
  if (piece.rows == 0) return;
  const int head = schedule.head(), column = head * given.dim;
  const HeadRows<const T> k = given.k.from(piece.other, column), v = given.v.from(piece.other, column);
  T* own = dynamic_shared<T>();
  T* stages = own + Layout<Products>::kOwn;
  const auto fetch = [&](int stage, int first) {
    T* keys = stages + stage * 2 * Layout<Products>::kOther;
    Tile::template fetch<kKeys>(keys, k.from(first, 0), piece.others - first, given.dim, given.chunks);
    Tile::template fetch<kKeys>(keys + Layout<Products>::kOther, v.from(first, 0), piece.others - first, given.dim,
                                given.chunks);
  };
  if (piece.others > 0) {
    Tile::template fetch<Layout<Products>::kQueries>(own, given.q.from(piece.own, column), piece.rows, given.dim, given.chunks);
    fetch(0, 0);
    cp_async_commit();
  }

  const int first_row = static_cast<int>(threadIdx.x) / kWarp * Products::kWarpRows;
  const bool busy = first_row < piece.rows;
  typename Products::Sums sums;
  float largest[kRows], sum[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    largest[i] = -INFINITY;
    sum[i] = 0.0f;
#pragma unroll
    for (int j = 0; j < Products::kSums; ++j) sums[i][j] = 0.0f;
  }
  int stage = 0;
#pragma unroll 1
  for (int first = 0; first < piece.others; first += kKeys, stage ^= 1) {
    cp_async_wait<0>();
    __syncthreads();
    if (first + kKeys < piece.others) {
      fetch(stage ^ 1, first + kKeys);
      cp_async_commit();
    }
    if (!busy) continue;
    T* keys = stages + stage * 2 * Layout<Products>::kOther;
    typename Products::Scores scores;
    Products::multiply(scores, own, first_row, keys);
    if (first + kKeys > piece.others) {
#pragma unroll
      for (int j = 0; j < Products::kScores; ++j) {
        if (first + Products::column_of(j) < piece.others) continue;
#pragma unroll
        for (int i = 0; i < kRows; ++i) scores[i][j] = -INFINITY;
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      float top = largest[i];
#pragma unroll
      for (int j = 0; j < Products::kScores; ++j) top = fmaxf(top, scores[i][j]);
      top = row_maximum<Products>(top);
      const float shift = top * given.scale, ratio = fast_exp2(largest[i] * given.scale - shift);
      largest[i] = top;
      sum[i] *= ratio;
#pragma unroll
      for (int j = 0; j < Products::kScores; ++j) {
        scores[i][j] = fast_exp2(fmaf(scores[i][j], given.scale, -shift));
        sum[i] += scores[i][j];
      }
#pragma unroll
      for (int j = 0; j < Products::kSums; ++j) sums[i][j] *= ratio;
    }
    Products::accumulate(sums, scores, keys + Layout<Products>::kOther);
  }
  if (!busy) return;

  float factor[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const float total = row_sum<Products>(sum[i]);
    factor[i] = total == 0.0f ? 0.0f : 1.0f / total;
    const int row = first_row + Products::row_of(i);
    if (given.logsumexp && Products::lane() % Products::kLanesOfRow == 0 && row < piece.rows) {
      given.logsumexp[(piece.own + row) * given.logsumexp_stride + head] =
          total == 0.0f ? 0.0f : (largest[i] * given.scale + log2f(total)) * 0.69314718f;
    }
  }
  // Through the place of the warp's own queries, so that whole chunks are written.
  __syncwarp();
  Products::put(own, first_row, sums, factor);
  __syncwarp();
  Tile::template put<Products::kWarpRows>(own, first_row, given.out.from(piece.own, column), piece.rows, given.dim,
                                          given.chunks);
}

constexpr int kRowTiles = 2;

class AttentionKernel final : public CudaKernel {
 public:
  AttentionKernel(const Arguments& a, CudaDevice& device)
      : CudaKernel(operators::attention, device),
        dtype_(a[0].dtype),
        heads_(a.integer("heads")),
        dim_(a[0].columns() / heads_),
        sequences_(a.integer("sequences"), a[0].shape[0], a[1].shape[0], a.has(3), queries_of_block(dtype_, dim_)),
        complaint_(device.complaint("attention: offsets must rise from 0 to the number of rows")) {
    const double scale = a.number("scale") > 0 ? a.number("scale") : 1.0 / std::sqrt(static_cast<double>(dim_));
    scale_ = static_cast<float>(scale * 1.4426950408889634);
    with_products<kRowTiles>(dtype_, dim_, [](auto products) {
      using Products = decltype(products);
      allow_shared<attention_kernel<Products>>(Layout<Products>::kBytes);
    });
  }

  size_t workspace_bytes() const override { return sequences_.workspace_bytes(); }

 private:
  static int queries_of_block(DType dtype, int64_t dim) {
    require_head_width("attention", dim);
    int queries = 0;
    with_products<kRowTiles>(dtype, dim, [&](auto products) { queries = Layout<decltype(products)>::kQueries; });
    return queries;
  }

  void enqueue(const KernelCall& call, const Stream& stream) override {
    const Schedule schedule =
        sequences_.enqueue(stream, call.inputs[3], call.inputs[4], call.workspace, device().complaints(), complaint_);
    with_products<kRowTiles>(dtype_, dim_, [&](auto products) {
      using Products = decltype(products);
      using T = typename Products::T;
      Operands<T> given{head_rows<const T>(call.inputs[0]),
                        head_rows<const T>(call.inputs[1]),
                        head_rows<const T>(call.inputs[2]),
                        head_rows<T>(call.outputs[0]),
                        nullptr,
                        0,
                        static_cast<int>(dim_),
                        scale_,
                        moves_in_chunks(call.outputs[0], dim_)};
      for (size_t i = 0; i < 3; ++i) given.chunks = given.chunks && moves_in_chunks(call.inputs[i], dim_);
      if (call.outputs.size() > 1) {
        given.logsumexp = call.outputs[1].as<float>();
        given.logsumexp_stride = call.outputs[1].row_stride;
      }
      launch<attention_kernel<Products>>(stream, dim3(schedule.tiles * static_cast<unsigned>(heads_)), kAttentionThreads,
                                         Layout<Products>::kBytes, given, schedule);
    });
  }

  DType dtype_;
  int64_t heads_, dim_;
  Sequences sequences_;
  int complaint_;
  float scale_;
};

}  // namespace

std::unique_ptr<Kernel> make_attention(const Arguments& a, CudaDevice& device) {
  return std::make_unique<AttentionKernel>(a, device);
}

}  // namespace omni_id::cuda
