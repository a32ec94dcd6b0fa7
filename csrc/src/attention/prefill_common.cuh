// What both prefill attention kernels (mma.sync and wgmma) agree on: who computes which queries, and the softmax.
//
// A block computes 128 consecutive queries of one head of one span; K and V are taken in tiles that start at multiples
// of the tile from token 0, so a query meets the same tiles in the same order wherever its span began.
#pragma once

#include <stdint.h>

#include "common/launch.h"
#include "kv_layout.h"

namespace quern {

constexpr int kPrefillQueries = 128;  // a block
constexpr float kPrefillLog2E = 1.4426950408889634f;

struct PrefillParams {
  QuernAttention a;
  float scale;  // log2(e) / sqrt(head_dim)
  int n_tiles;  // of the longest span
  int n_items;  // tiles times spans times heads
};

/// The first token within the window of the one at `position`; below 0 if all before it are.
__device__ __forceinline__ int first_seen(int position, int window) { return position + 1 - window; }

/// The queries of a block.
struct QueryTile {
  int head, kv_head, span;
  int first_row;       // row of qkv and out of the first query
  int n_rows;          // <= kPrefillQueries; <= 0: nothing to do
  int first_position;  // in the sequence
  int n_written;       // tokens of the sequence that are in the cache: the span's end
  /// The tokens before this are all that the queries see, less those before their windows.
  __device__ __forceinline__ int n_tokens() const { return first_position + n_rows; }
  /// The first tile of so many tokens that any of the queries sees.
  template <bool kWindowed>
  __device__ __forceinline__ int first_tile(int tokens, int window) const {
    return kWindowed ? max(0, first_seen(first_position, window)) / tokens : 0;
  }
};

/// Items: (tile, span, head), the last (longest) tiles first, heads together.
__device__ __forceinline__ QueryTile query_tile(const QuernAttention &a, int n_tiles, int item) {
  const int tile = n_tiles - 1 - item / (a.n_heads * a.spans.n_spans), first = tile * kPrefillQueries;
  QueryTile q;
  q.head = item % a.n_heads;
  q.kv_head = q.head / (a.n_heads / a.cache.n_kv_heads);
  q.span = item / a.n_heads % a.spans.n_spans;
  const int position = a.spans.position[q.span], n_rows = a.spans.n_rows[q.span];
  q.first_row = a.spans.first_row[q.span] + first;
  q.first_position = position + first;
  q.n_rows = position < 0 ? 0 : min(kPrefillQueries, n_rows - first);
  q.n_written = position + n_rows;
  return q;
}

__device__ __forceinline__ int64_t qkv_width(const QuernAttention &a) {
  return int64_t(a.n_heads + 2 * a.cache.n_kv_heads) * a.cache.head_dim;
}

/// The rows of an accumulator of m16n8k16 (or of wgmma's m64) that a lane holds: r and r + 8.
struct RowPair {
  float max[2];
  float sum[2];  // of this lane's columns
};

__device__ __forceinline__ float prefill_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Columns beyond a row's own position leave: `first_token` is that of s[0][0] in lanes with t = 0.
template <int kTiles>
__device__ __forceinline__ void mask_causal(float (&s)[kTiles][4], int first_token, int row_position) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int token = first_token + 8 * n + 2 * t + e % 2;
      if (token > row_position + 8 * (e / 2)) s[n][e] = -INFINITY;
    }
  }
}

/// Columns before a row's window leave: `row_first` is the first token that row 0 of the lane sees.
template <int kTiles>
__device__ __forceinline__ void mask_window(float (&s)[kTiles][4], int first_token, int row_first) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int token = first_token + 8 * n + 2 * t + e % 2;
      if (token < row_first + 8 * (e / 2)) s[n][e] = -INFINITY;
    }
  }
}

/// Scores to weights against the new row maxima; returns in `factor` what earlier results must be scaled by. With a window a
/// row may have seen nothing yet: then all its weights are 0.
template <bool kWindowed, int kTiles>
__device__ __forceinline__ void softmax_rows(float (&s)[kTiles][4], float scale, RowPair &rows, float (&factor)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float most = rows.max[r];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) most = fmaxf(most, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
    const float base = kWindowed && most == -INFINITY ? 0.f : most;
    factor[r] = prefill_exp2((rows.max[r] - base) * scale);
    rows.max[r] = most;
    const float offset = base * scale;
    float sum = rows.sum[r] * factor[r];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int e = 2 * r; e < 2 * r + 2; ++e) {
        s[n][e] = prefill_exp2(__fmaf_rn(s[n][e], scale, -offset));
        sum += s[n][e];
      }
    }
    rows.sum[r] = sum;
  }
}

/// 1 / the sum over the four lanes of a row.
__device__ __forceinline__ float inverse_row_sum(float sum) {
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  return 1.f / sum;
}

}  // namespace quern
