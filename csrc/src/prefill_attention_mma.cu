// Paged prefill attention for every device from sm_80 on: 8 warps of 16 queries, K and V tiles of 64 tokens in two
// cp.async stages, scores and weights in registers (mma.sync). sm_90 has a faster one (prefill_attention_wgmma.cu).
#include "attention/check.h"
#include "attention/prefill.h"
#include "attention/prefill_common.cuh"
#include "common/async_copy.cuh"
#include "common/grid.cuh"
#include "common/half8.cuh"
#include "common/mma.cuh"
#include "device.h"

namespace quern {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kTokens = 64;  // a tile
constexpr int kBlocks = kTokens / kKvBlock;

/// Bytes of shared memory: Q, and two stages of K and V. K and V keep the order of the cache; Q has the same swizzle.
template <int kHeadDim>
struct Smem {
  static constexpr int kQueryBytes = kPrefillQueries * kHeadDim * 2;
  static constexpr int kTileBytes = kTokens * kHeadDim * 2;
  static constexpr int kBytes = kQueryBytes + 4 * kTileBytes;
  static QUERN_HD constexpr int key(int stage) { return kQueryBytes + stage * 2 * kTileBytes; }
  static QUERN_HD constexpr int value(int stage) { return key(stage) + kTileBytes; }
};

/// The transpose of ldmatrix_x4: lane 4r + c receives elements of rows 2c, 2c + 1, column r.
__device__ __forceinline__ void ldmatrix_x4_transposed(uint32_t (&d)[4], uint32_t smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(smem)
               : "memory");
}

/// Byte offset of a chunk of 8 elements of a row, in slabs of `rows` rows.
__device__ __forceinline__ int swizzled(int rows, int row, int chunk) {
  return chunk / 8 * rows * 128 + row * 128 + ((chunk ^ row) & 7) * 16;
}

template <int kHeadDim>
__device__ __forceinline__ void load_queries(const QuernAttention &a, const QueryTile &q, uint32_t smem) {
  const __half *qkv = static_cast<const __half *>(a.qkv) + q.first_row * qkv_width(a) + q.head * kHeadDim;
  for (int i = threadIdx.x; i < kPrefillQueries * kHeadDim / 8; i += kThreads) {
    const int row = i / (kHeadDim / 8), chunk = i % (kHeadDim / 8);
    const bool valid = row < q.n_rows;
    cp_async_16_or_zero(smem + swizzled(kPrefillQueries, row, chunk), qkv + (valid ? row : 0) * qkv_width(a) + chunk * 8,
                        valid);
  }
}

/// K and V of tokens [first, first + 64); those from n_tokens on become zeros, since nothing wrote them.
template <int kHeadDim>
__device__ __forceinline__ void load_tokens(const QuernAttention &a, const QueryTile &q, int first, uint32_t keys,
                                            uint32_t values) {
  constexpr int kChunks = kKvBlock * kHeadDim / 8;
  const KvShape shape = {a.cache.n_blocks, a.cache.n_kv_heads, kHeadDim};
  const int32_t *table = a.spans.block_tables + int64_t(q.span) * a.spans.table_stride + first / kKvBlock;
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    const int left = q.n_tokens() - first - block * kKvBlock;
    const __half *tile = static_cast<const __half *>(a.cache.data);
    if (left > 0) tile += kv_tile_offset(shape, a.layer, table[block], q.kv_head);
    for (int i = threadIdx.x; i < kChunks; i += kThreads) {
      const bool valid = i / 8 % kKvBlock < left;
      const uint32_t to = (block * kChunks + i) * 16;
      cp_async_16_or_zero(keys + to, tile + i * 8, valid);
      cp_async_16_or_zero(values + to, tile + kv_value_offset(shape) + i * 8, valid);
    }
  }
}

/// A warp's 16 queries.
template <int kHeadDim>
struct WarpQueries {
  static constexpr int kSteps = kHeadDim / 16;
  static constexpr int kSlabBytes = kKvBlock * 128;
  uint32_t q[kSteps][4];
  float out[kHeadDim / 8][4] = {};
  RowPair rows = {{-INFINITY, -INFINITY}, {0.f, 0.f}};

  __device__ __forceinline__ void load(uint32_t queries) {
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane % 16;
#pragma unroll
    for (int k = 0; k < kSteps; ++k) ldmatrix_x4(q[k], queries + swizzled(kPrefillQueries, row, 2 * k + lane / 16));
  }
  /// Address of a chunk of a token of a tile in the cache's order.
  static __device__ __forceinline__ uint32_t chunk_at(uint32_t tile, int token, int chunk) {
    return tile + token / kKvBlock * (kHeadDim / kSlabWidth) * kSlabBytes + swizzled(kKvBlock, token % kKvBlock, chunk);
  }

  __device__ __forceinline__ void scores(uint32_t keys, float (&s)[kTokens / 8][4]) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
#pragma unroll
      for (int n = 0; n < kTokens / 16; ++n) {
        uint32_t b[4];  // tokens 16n..: k low, k high; tokens 16n + 8..: k low, k high
        ldmatrix_x4(b, chunk_at(keys, 16 * n + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
        mma_16816(s[2 * n], q[k], b[0], b[1]);
        mma_16816(s[2 * n + 1], q[k], b[2], b[3]);
      }
    }
  }

  __device__ __forceinline__ void add_values(uint32_t values, const float (&s)[kTokens / 8][4]) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < kTokens / 16; ++k) {
      const uint32_t a[4] = {pack_half2(s[2 * k][0], s[2 * k][1]), pack_half2(s[2 * k][2], s[2 * k][3]),
                             pack_half2(s[2 * k + 1][0], s[2 * k + 1][1]), pack_half2(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
      for (int n = 0; n < kHeadDim / 16; ++n) {
        uint32_t b[4];  // elements 16n..: tokens low, high; elements 16n + 8..: tokens low, high
        ldmatrix_x4_transposed(b, chunk_at(values, 16 * k + lane % 16, 2 * n + lane / 16));
        mma_16816(out[2 * n], a, b[0], b[1]);
        mma_16816(out[2 * n + 1], a, b[2], b[3]);
      }
    }
  }

  /// `position`: of the warp's first query.
  template <bool kWindowed>
  __device__ __forceinline__ void tile(uint32_t keys, uint32_t values, int first_token, int position, const PrefillParams &p) {
    float s[kTokens / 8][4] = {}, factor[2];
    scores(keys, s);
    const int row_position = position + threadIdx.x % 32 / 4;
    if (first_token + kTokens - 1 > position) mask_causal(s, first_token, row_position);
    if (kWindowed && first_token < first_seen(position + 15, p.a.window)) {
      mask_window(s, first_token, first_seen(row_position, p.a.window));
    }
    softmax_rows<kWindowed>(s, p.scale, rows, factor);
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) out[n][e] *= factor[e / 2];
    }
    add_values(values, s);
  }

  __device__ __forceinline__ void store(const QuernAttention &a, const QueryTile &q) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float inverse = inverse_row_sum(rows.sum[r]);
      const int row = threadIdx.x / 32 * 16 + lane / 4 + 8 * r;
      if (row >= q.n_rows) continue;
      __half *to = static_cast<__half *>(a.out) + (int64_t(q.first_row + row) * a.n_heads + q.head) * kHeadDim;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        *reinterpret_cast<uint32_t *>(to + 8 * n + lane % 4 * 2) =
            pack_half2(out[n][2 * r] * inverse, out[n][2 * r + 1] * inverse);
      }
    }
  }
};

template <int kHeadDim, bool kWindowed>
__global__ void __launch_bounds__(kThreads, 1) prefill_mma_kernel(const PrefillParams p) {
  extern __shared__ __align__(128) char smem[];
  using Memory = Smem<kHeadDim>;
  wait_for_previous_kernel();
  allow_next_kernel();
  const QueryTile q = query_tile(p.a, p.n_tiles, blockIdx.x);
  if (q.n_rows <= 0) return;
  const uint32_t base = smem_address(smem);
  load_queries<kHeadDim>(p.a, q, base);
  const int first_tile = q.first_tile<kWindowed>(kTokens, p.a.window), n_tiles = ceil_div(q.n_tokens(), kTokens);
  load_tokens<kHeadDim>(p.a, q, first_tile * kTokens, base + Memory::key(first_tile % 2), base + Memory::value(first_tile % 2));
  cp_async_commit();
  const int position = q.first_position + threadIdx.x / 32 * 16;  // of the warp's first query
  WarpQueries<kHeadDim> queries;
  for (int i = first_tile; i < n_tiles; ++i) {
    cp_async_wait<0>();
    __syncthreads();
    if (i == first_tile) queries.load(base);
    if (i + 1 < n_tiles) {
      const int stage = (i + 1) % 2;
      load_tokens<kHeadDim>(p.a, q, (i + 1) * kTokens, base + Memory::key(stage), base + Memory::value(stage));
      cp_async_commit();
    }
    // A tile beyond all queries of this warp, or before all their windows, would change nothing.
    if (i * kTokens > position + 15) continue;
    if (kWindowed && i * kTokens + kTokens <= first_seen(position, p.a.window)) continue;
    queries.template tile<kWindowed>(base + Memory::key(i % 2), base + Memory::value(i % 2), i * kTokens, position, p);
  }
  queries.store(p.a, q);
}

}  // namespace

int32_t prefill_mma_prepare(const QuernDevice &device) {
  for (const auto kernel : {prefill_mma_kernel<64, false>, prefill_mma_kernel<64, true>, prefill_mma_kernel<128, false>,
                            prefill_mma_kernel<128, true>}) {
    const int32_t status = raise_smem_limit(kernel, device);
    if (status != QUERN_OK) return status;
  }
  return QUERN_OK;
}

int32_t prefill_mma(const QuernDevice &device, const PrefillParams &params, void *stream) {
  const bool small = params.a.cache.head_dim == 64;
  const LaunchShape shape = {static_cast<unsigned>(params.n_items), kThreads,
                             unsigned(small ? Smem<64>::kBytes : Smem<128>::kBytes), 1, device.pdl != 0};
  if (params.a.window > 0) {
    return launch(small ? prefill_mma_kernel<64, true> : prefill_mma_kernel<128, true>, shape, stream, params);
  }
  return launch(small ? prefill_mma_kernel<64, false> : prefill_mma_kernel<128, false>, shape, stream, params);
}

}  // namespace quern
