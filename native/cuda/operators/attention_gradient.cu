// attention_gradient: for every sequence and head, with the weights p_ij = 2^(scale · log2(e) · q_i · k_j − shift_i), where
// shift = logsumexp · log2(e), and D_i = dout_i · out_i,
//   dv_j = Σ_i p_ij dout_i,   ds_ij = p_ij (dout_i · v_j − D_i),
//   dq_i = scale · Σ_j ds_ij k_j,   dk_j = scale · Σ_i ds_ij q_i;
// shapes and offsets are in native/operators/attention_gradient.cpp.
//
// Strategy: first shift and D of every query and head, a warp for each, into the workspace. Then two launches of one kernel,
// each of which writes what it alone sums, so that no sum needs an atomic and its order depends on sizes alone: a block owns
// keys and goes through the sequence's queries for dk and dv, or owns queries and goes through the keys for dq. To the kernel
// these differ in names only: it owns rows of two matrices A and B and meets rows of C and D,
//   keys own:     A = k, B = v,    C = q, D = dout:  s = A Cᵀ, dp = B Dᵀ, dv += p D, dk += ds C
//   queries own:  A = q, B = dout, C = k, D = v:     s = A Cᵀ, dp = B Dᵀ,            dq += ds C
// and since own rows are always the first product's rows, p and ds go to the second product without leaving their thread
// (attention_products.cuh). C and D come in two stages by cp.async, as in attention.cu.
//
// Block: 4 warps of 16 own rows each: the sums of dk and dv take as many registers as a head has columns. Other rows: in bf16
// 64 (32 from 65 columns on), in f32 32 (16 from 33 columns on). Shared memory: the own rows of A and B, two stages of C and D,
// and up to 1 KB of shifts and D; for heads of up to
//   bf16:  32: 25 KB, 64: 49 KB, 80: 41 KB, 128: 65 KB     f32:  32: 33 KB, 64: 49 KB, 96: 73 KB, 128: 97 KB
// Registers (sm_80 to sm_120): bf16 121 to 250, f32 130 to 252; of the first kernel 30 to 48.
//
// Cost: 14 · queries · keys · dim flops a head (10 are the operator's; s and dp are made twice, which costs less than partial
// sums of dq through memory) and two powers a score. Reads q, k, v and dout once, and C and D once more for each tile of own
// rows, from the second-level cache; out once; writes dq, dk and dv once.
#include <cmath>

#include "cuda/operators/attention_products.cuh"
#include "cuda/operators/attention_schedule.cuh"

namespace omni_id::cuda {

namespace {

// What the kernels read of every query and head, [heads][queries]: a tile's are neighbours.
struct QueryStatistics {
  float *shift, *rowsum;
  int64_t queries;
};

constexpr int kRowsPerBlock = 8;  // warps

template <typename T>
__global__ void __launch_bounds__(kRowsPerBlock* kWarp)
    query_statistics_kernel(HeadRows<const T> dout, HeadRows<const T> out, HeadRows<const float> logsumexp, int heads, int dim,
                            QueryStatistics to) {
  expect_threads<kRowsPerBlock * kWarp>();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t at = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarp, row = at / heads;
  const int head = static_cast<int>(at % heads);  // a row's heads lie side by side, and so do the warps that read them
  if (row >= to.queries) return;
  const HeadRows<const T> a = dout.from(row, head * dim), b = out.from(row, head * dim);
  float sum = 0.0f;
  for (int d = lane; d < dim; d += kWarp) sum += to_float(a.data[d]) * to_float(b.data[d]);
  sum = warp_sum(sum);
  if (lane != 0) return;
  to.shift[head * to.queries + row] = logsumexp.data[row * logsumexp.stride + head] * 1.44269504f;
  to.rowsum[head * to.queries + row] = sum;
}

template <typename T>
struct Operands {
  HeadRows<const T> a, b, c, d;
  HeadRows<T> sums_of_c, sums_of_d;
  QueryStatistics statistics;
  int dim;
  float scale;
  bool chunks;
};

template <typename Products>
struct Layout {
  static constexpr int kOwnRows = kAttentionWarps * Products::kWarpRows;
  static constexpr int kOwn = kOwnRows * Products::kWidth, kOther = Products::kOthers * Products::kWidth;  // elements
  static constexpr size_t kTiles = (2 * kOwn + kStages * 2 * kOther) * sizeof(typename Products::T);       // bytes
  static constexpr int kStatistics = 2 * Products::kOthers;  // floats of a stage: of each other row shift and rowsum
  static constexpr size_t kBytes = kTiles + kStages * kStatistics * sizeof(float);
};

template <typename Products, bool owns_keys>
__global__ void __launch_bounds__(kAttentionThreads, 2)
    attention_gradient_kernel(Operands<typename Products::T> given, Schedule schedule) {
  expect_threads<kAttentionThreads>();
  using T = typename Products::T;
  using Tile = typename Products::Tile;
  constexpr int kRows = Products::kRows, kOthers = Products::kOthers, kOther = Layout<Products>::kOther;
  expect_dynamic_shared<Layout<Products>::kBytes>();
  const Piece piece = schedule.piece();
  if (piece.rows == 0) return;
  const int head = schedule.head(), column = head * given.dim, thread = static_cast<int>(threadIdx.x);
  const float *shift = given.statistics.shift + head * given.statistics.queries,
              *rowsum = given.statistics.rowsum + head * given.statistics.queries;
  T* a = dynamic_shared<T>();
  T* b = a + Layout<Products>::kOwn;
  T* stages = b + Layout<Products>::kOwn;
  float* statistics = reinterpret_cast<float*>(dynamic_shared<unsigned char>() + Layout<Products>::kTiles);
  const auto fetch = [&](int stage, int first) {
    T* c = stages + stage * 2 * kOther;
    const int left = piece.others - first;
    Tile::template fetch<kOthers>(c, given.c.from(piece.other + first, column), left, given.dim, given.chunks);
    Tile::template fetch<kOthers>(c + kOther, given.d.from(piece.other + first, column), left, given.dim, given.chunks);
    if (owns_keys && thread < Layout<Products>::kStatistics) {
      const int row = thread % kOthers;
      const bool inside = row < left;
      const float* from = thread < kOthers ? shift : rowsum;
      cp_async_4(statistics + stage * Layout<Products>::kStatistics + thread, from + (inside ? piece.other + first + row : 0),
                 inside ? 4 : 0);
    }
  };
  if (piece.others > 0) {
    Tile::template fetch<Layout<Products>::kOwnRows>(a, given.a.from(piece.own, column), piece.rows, given.dim, given.chunks);
    Tile::template fetch<Layout<Products>::kOwnRows>(b, given.b.from(piece.own, column), piece.rows, given.dim, given.chunks);
    fetch(0, 0);
    cp_async_commit();
  }

  const int first_row = thread / kWarp * Products::kWarpRows;
  const bool busy = first_row < piece.rows;
  typename Products::Sums sums_of_c, sums_of_d;
  float own_shift[kRows], own_rowsum[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int row = first_row + Products::row_of(i);
    const bool inside = !owns_keys && row < piece.rows;
    own_shift[i] = inside ? shift[piece.own + row] : 0.0f;
    own_rowsum[i] = inside ? rowsum[piece.own + row] : 0.0f;
#pragma unroll
    for (int j = 0; j < Products::kSums; ++j) sums_of_c[i][j] = sums_of_d[i][j] = 0.0f;
  }
  const float power_scale = given.scale * 1.44269504f;
  int stage = 0;
#pragma unroll 1
  for (int first = 0; first < piece.others; first += kOthers, stage ^= 1) {
    cp_async_wait<0>();
    __syncthreads();
    if (first + kOthers < piece.others) {
      fetch(stage ^ 1, first + kOthers);
      cp_async_commit();
    }
    if (!busy) continue;
    T *c = stages + stage * 2 * kOther, *d = c + kOther;
    const float* of_others = statistics + stage * Layout<Products>::kStatistics;
    typename Products::Scores weights, gradients;
    Products::multiply(weights, a, first_row, c);
#pragma unroll
    for (int j = 0; j < Products::kScores; ++j) {
      const int other = Products::column_of(j);
      const float other_shift = owns_keys ? of_others[other] : 0.0f;
      // Behind the end the scores are 0: a key's weight is none, whatever the query's shift; a query's would be multiplied by
      // 0.
      const bool inside = owns_keys || first + other < piece.others;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float weight = fast_exp2(fmaf(weights[i][j], power_scale, -(owns_keys ? other_shift : own_shift[i])));
        weights[i][j] = inside ? weight : 0.0f;
      }
    }
    if constexpr (owns_keys) Products::accumulate(sums_of_d, weights, d);
    Products::multiply(gradients, b, first_row, d);
#pragma unroll
    for (int j = 0; j < Products::kScores; ++j) {
      const float other_rowsum = owns_keys ? of_others[kOthers + Products::column_of(j)] : 0.0f;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        gradients[i][j] = weights[i][j] * (gradients[i][j] - (owns_keys ? other_rowsum : own_rowsum[i]));
      }
    }
    Products::accumulate(sums_of_c, gradients, c);
  }
  if (!busy) return;

  // Through the places of the warp's own rows, so that whole chunks are written.
  float factor[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) factor[i] = given.scale;
  __syncwarp();
  Products::put(a, first_row, sums_of_c, factor);
  if constexpr (owns_keys) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) factor[i] = 1.0f;
    Products::put(b, first_row, sums_of_d, factor);
  }
  __syncwarp();
  Tile::template put<Products::kWarpRows>(a, first_row, given.sums_of_c.from(piece.own, column), piece.rows, given.dim,
                                          given.chunks);
  if constexpr (owns_keys) {
    Tile::template put<Products::kWarpRows>(b, first_row, given.sums_of_d.from(piece.own, column), piece.rows, given.dim,
                                            given.chunks);
  }
}

constexpr int kRowTiles = 1;
constexpr int kOwnRows = kAttentionWarps * 16;  // of every width and type

class AttentionGradientKernel final : public CudaKernel {
 public:
  AttentionGradientKernel(const Arguments& a, CudaDevice& device)
      : CudaKernel(operators::attention_gradient, device),
        dtype_(a[0].dtype),
        queries_(a[1].shape[0]),
        heads_(a.integer("heads")),
        dim_(a[1].columns() / heads_),
        of_keys_(a.integer("sequences"), a[2].shape[0], queries_, a.has(6), kOwnRows),
        of_queries_(a.integer("sequences"), queries_, a[2].shape[0], a.has(6), kOwnRows),
        complaint_(device.complaint("attention_gradient: offsets must rise from 0 to the number of rows")) {
    require_head_width("attention_gradient", dim_);
    const double scale = a.number("scale");
    scale_ = static_cast<float>(scale > 0 ? scale : 1.0 / std::sqrt(static_cast<double>(dim_)));
    with_products<kRowTiles>(dtype_, dim_, [](auto products) {
      using Products = decltype(products);
      static_assert(Layout<Products>::kOwnRows == kOwnRows);
      allow_shared<attention_gradient_kernel<Products, true>>(Layout<Products>::kBytes);
      allow_shared<attention_gradient_kernel<Products, false>>(Layout<Products>::kBytes);
    });
  }

  size_t workspace_bytes() const override {
    return of_keys_.workspace_bytes() + of_queries_.workspace_bytes() +
           static_cast<size_t>(2 * heads_ * queries_) * sizeof(float);
  }

 private:
  void enqueue(const KernelCall& call, const Stream& stream) override {
    const auto& in = call.inputs;
    const auto& out = call.outputs;
    std::byte* workspace = call.workspace;
    const Schedule of_keys = of_keys_.enqueue(stream, in[7], in[6], workspace, device().complaints(), complaint_);
    workspace += of_keys_.workspace_bytes();
    const Schedule of_queries = of_queries_.enqueue(stream, in[6], in[7], workspace, device().complaints(), complaint_);
    workspace += of_queries_.workspace_bytes();
    float* shift = reinterpret_cast<float*>(workspace);
    const QueryStatistics statistics{shift, shift + heads_ * queries_, queries_};
    with_products<kRowTiles>(dtype_, dim_, [&](auto products) {
      using Products = decltype(products);
      using T = typename Products::T;
      const auto given = [&](size_t input) { return head_rows<const T>(in[input]); };
      bool chunks = true;
      for (size_t i = 0; i < 4; ++i) chunks = chunks && moves_in_chunks(in[i], dim_);
      for (const TensorView& view : out) chunks = chunks && moves_in_chunks(view, dim_);
      const Operands<T> keys_own{given(2),
                                 given(3),
                                 given(1),
                                 given(0),
                                 head_rows<T>(out[1]),
                                 head_rows<T>(out[2]),
                                 statistics,
                                 static_cast<int>(dim_),
                                 scale_,
                                 chunks};
      const Operands<T> queries_own{
          given(1), given(0), given(2), given(3), head_rows<T>(out[0]), {}, statistics, static_cast<int>(dim_), scale_, chunks};
      const unsigned heads = static_cast<unsigned>(heads_);
      launch<query_statistics_kernel<T>>(stream, dim3(blocks_for(queries_ * heads_, kRowsPerBlock)), kRowsPerBlock * kWarp, 0,
                                         given(0), given(4), head_rows<const float>(in[5]), static_cast<int>(heads_),
                                         static_cast<int>(dim_), statistics);
      launch<attention_gradient_kernel<Products, true>>(stream, dim3(of_keys.tiles * heads), kAttentionThreads,
                                                        Layout<Products>::kBytes, keys_own, of_keys);
      launch<attention_gradient_kernel<Products, false>>(stream, dim3(of_queries.tiles * heads), kAttentionThreads,
                                                         Layout<Products>::kBytes, queries_own, of_queries);
    });
  }

  DType dtype_;
  int64_t queries_, heads_, dim_;
  Sequences of_keys_, of_queries_;
  int complaint_;
  float scale_;
};

}  // namespace

std::unique_ptr<Kernel> make_attention_gradient(const Arguments& a, CudaDevice& device) {
  return std::make_unique<AttentionGradientKernel>(a, device);
}

}  // namespace omni_id::cuda
