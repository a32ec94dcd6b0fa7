// A consumer of the sm_90 prefill kernel: one warpgroup, 64 queries. The scores of a tile are computed while the weights of
// the one before meet its values.
#pragma once

#include "attention/prefill_wgmma.cuh"
#include "attention/wgmma.cuh"
#include "common/half8.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

namespace quern::prefill {

template <int kHeadDim, bool kWindowed>
class Consumer {
 public:
  using Mem = Memory<kHeadDim>;
  __device__ __forceinline__ Consumer(const PrefillParams &p, Mem memory, int group)
      : p_(p), memory_(memory), group_(group), thread_(threadIdx.x % 128) {}

  __device__ __forceinline__ void run() {
    ItemWalk walk(p_);
    QueryTile q;
    bool more = walk.next(q);
    if (more) fetch_queries(q);
    while (more) {
      float out[kOutTiles][4] = {};
      RowPair rows = {{-INFINITY, -INFINITY}, {0.f, 0.f}};
      place_queries();
      attend(q, out, rows);
      // The next queries come while the last product runs and this result is stored.
      const QueryTile done = q;
      more = walk.next(q);
      if (more) fetch_queries(q);
      wgmma_wait<0>();
      pin(out);
      give_back(memory_.empty_values(values_.stage));
      values_.next();
      store(done, out, rows);
    }
  }

 private:
  static constexpr int kOutTiles = kHeadDim / 8;
  static constexpr int kChunks = kHeadDim / 8;                      // of 8 elements a row
  static constexpr int kMyChunks = kQueries * kChunks / 128;        // a thread

  /// Everything but the end of the last product.
  __device__ __forceinline__ void attend(const QueryTile &q, float (&out)[kOutTiles][4], RowPair &rows) {
    const int first = q.first_position + group_ * kQueries;             // position of the first query
    const int position = first + thread_ / 32 * 16 + thread_ % 32 / 4;  // of this thread's first row
    // A tile that only the other warpgroup's queries see changes nothing here, but its stages must be given back.
    const int first_tile = q.first_tile<kWindowed>(kTokens, p_.a.window), n_tiles = tiles_for(q.n_tokens());
    float s[kTokens / 8][4], factor[2];
    uint32_t weights[kTokens / 16][4];
    start_scores(s);
    finish_scores<0>(s);
    exponentiate(s, first_tile, position, first, rows, factor);
    pack_weights(s, weights);
    for (int tile = first_tile + 1; tile < n_tiles; ++tile) {
      start_scores(s);
      start_values(out, weights);
      finish_scores<1>(s);
      exponentiate(s, tile, position, first, rows, factor);
      wgmma_wait<0>();
      pin(out);
      give_back(memory_.empty_values(values_.stage));
      values_.next();
#pragma unroll
      for (int n = 0; n < kOutTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) out[n][e] *= factor[e / 2];
      }
      pack_weights(s, weights);
    }
    start_values(out, weights);
  }

  /// This warpgroup's queries to registers; those beyond the span are zeros.
  __device__ __forceinline__ void fetch_queries(const QueryTile &q) {
    const __half *from = static_cast<const __half *>(p_.a.qkv) + q.first_row * qkv_width(p_.a) + q.head * kHeadDim;
#pragma unroll
    for (int i = 0; i < kMyChunks; ++i) {
      const int row = group_ * kQueries + (thread_ + 128 * i) / kChunks, chunk = (thread_ + 128 * i) % kChunks;
      queries_[i] = row < q.n_rows ? load_half8(from + row * qkv_width(p_.a) + chunk * 8) : Half8{};
    }
  }
  /// From registers to shared memory, swizzled.
  __device__ __forceinline__ void place_queries() {
    named_barrier(1 + group_, 128);  // all warps have read the queries before
#pragma unroll
    for (int i = 0; i < kMyChunks; ++i) {
      const int row = (thread_ + 128 * i) / kChunks, chunk = (thread_ + 128 * i) % kChunks;
      const uint32_t to = memory_.queries(group_) + chunk / 8 * kQuerySlabBytes + row * 128 + ((chunk ^ row) & 7) * 16;
      const Half8 &x = queries_[i];
      asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x.word[0]), "r"(x.word[1]), "r"(x.word[2]),
                   "r"(x.word[3])
                   : "memory");
    }
    async_proxy_fence();
    named_barrier(1 + group_, 128);
  }

  /// Starts s = Q K^T of the next tile.
  __device__ __forceinline__ void start_scores(float (&s)[kTokens / 8][4]) {
    mbarrier_wait(memory_.full_keys(keys_.stage), keys_.phase);
    pin(s);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
      const uint32_t along = k % 4 * 32;  // bytes along the row
      const uint64_t a = swizzled_operand(memory_.queries(group_) + k / 4 * kQuerySlabBytes + along, 0);
      const uint64_t b = swizzled_operand(memory_.keys(keys_.stage) + k / 4 * kTileSlabBytes + along, 0);
      wgmma_64x128(s, a, b, k > 0);
    }
    wgmma_commit();
  }
  /// Waits for the scores, but not for kLater products that were started after them.
  template <int kLater>
  __device__ __forceinline__ void finish_scores(float (&s)[kTokens / 8][4]) {
    wgmma_wait<kLater>();
    pin(s);
    give_back(memory_.empty_keys(keys_.stage));
    keys_.next();
  }

  /// Starts out += weights V of the next tile of values.
  __device__ __forceinline__ void start_values(float (&out)[kOutTiles][4], const uint32_t (&weights)[kTokens / 16][4]) {
    mbarrier_wait(memory_.full_values(values_.stage), values_.phase);
    pin(out);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kTokens / 16; ++k) {
      const uint64_t b = swizzled_operand(memory_.values(values_.stage) + k * 16 * 128, kTileSlabBytes);
      if constexpr (kHeadDim == 128) {
        wgmma_64x128(out, weights[k], b);
      } else {
        wgmma_64x64(out, weights[k], b);
      }
    }
    wgmma_commit();
  }

  __device__ __forceinline__ void exponentiate(float (&s)[kTokens / 8][4], int tile, int position, int first,
                                               RowPair &rows, float (&factor)[2]) {
    if (tile * kTokens + kTokens - 1 > first) mask_causal(s, tile * kTokens, position);
    if (kWindowed && tile * kTokens < first_seen(first + kQueries - 1, p_.a.window)) {
      mask_window(s, tile * kTokens, first_seen(position, p_.a.window));
    }
    softmax_rows<kWindowed>(s, p_.scale, rows, factor);
  }
  __device__ __forceinline__ void pack_weights(const float (&s)[kTokens / 8][4], uint32_t (&weights)[kTokens / 16][4]) {
#pragma unroll
    for (int k = 0; k < kTokens / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weights[k][i] = pack_half2(s[2 * k + i / 2][i % 2 * 2], s[2 * k + i / 2][i % 2 * 2 + 1]);
      }
    }
  }
  __device__ __forceinline__ void give_back(uint32_t barrier) {
    if (thread_ % 32 == 0) mbarrier_arrive(barrier);
  }

  __device__ __forceinline__ void store(const QueryTile &q, const float (&out)[kOutTiles][4], const RowPair &rows) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float inverse = inverse_row_sum(rows.sum[r]);
      const int row = group_ * kQueries + thread_ / 32 * 16 + thread_ % 32 / 4 + 8 * r;
      if (row >= q.n_rows) continue;
      __half *to = static_cast<__half *>(p_.a.out) + (int64_t(q.first_row + row) * p_.a.n_heads + q.head) * kHeadDim;
#pragma unroll
      for (int n = 0; n < kOutTiles; ++n) {
        *reinterpret_cast<uint32_t *>(to + 8 * n + thread_ % 4 * 2) =
            pack_half2(out[n][2 * r] * inverse, out[n][2 * r + 1] * inverse);
      }
    }
  }

  const PrefillParams &p_;
  Mem memory_;
  int group_, thread_;
  Turn keys_, values_;  // the tiles that come next
  Half8 queries_[kMyChunks];
};

}  // namespace quern::prefill

#endif  // __CUDA_ARCH_FEAT_SM90_ALL
